package dev.saccade.train.report;

/** The style sheet of the report. */
final class Style {

  static final String CSS =
      """
      :root {
        --paper: #ffffff; --card: #f7f8fa; --text: #1b1f24; --muted: #57606a; --line: #e2e6ea;
        --first: #0072b2; --second: #00805e; --third: #aa4499; --held-out: #c75400;
        --fourth: #7d6b00; --fifth: #882255; --sixth: #444b54;
        --right: #00714f; --wrong: #b3400a;
      }
      @media (prefers-color-scheme: dark) {
        :root {
          --paper: #14171a; --card: #1c2024; --text: #e8eaed; --muted: #a0a8b2; --line: #31373d;
          --first: #56b4e9; --second: #2fc795; --third: #dd90c4; --held-out: #f0913f;
          --fourth: #d9c74c; --fifth: #e07fa5; --sixth: #b9c0c8;
          --right: #4fcf9f; --wrong: #f59a63;
        }
      }
      * { box-sizing: border-box; }
      body {
        margin: 0; background: var(--paper); color: var(--text);
        font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
      }
      main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
      h1 { font-size: 27px; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; margin: 0; }
      h2 { font-size: 17px; font-weight: 650; margin: 0 0 14px; }
      header { padding-bottom: 20px; border-bottom: 1px solid var(--line); }
      section { margin-top: 36px; }
      small, .note, .number span { color: var(--muted); }
      small, .note { font-size: 13px; }
      .note { margin: 10px 0 0; }
      figure { margin: 0; }
      svg { display: block; width: 100%; height: auto; }
      .wide { overflow-x: auto; }
      table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
      th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); text-align: left; }
      th { font-weight: 500; }
      thead th { color: var(--muted); font-size: 13px; }
      .number { white-space: nowrap; }
      .number small { margin-left: 4px; }
      .interval { width: 300px; min-width: 200px; padding-right: 0; }
      .interval text { font-size: 13px; fill: var(--muted); text-anchor: middle; }
      .interval path { stroke-width: 2; fill: none; }
      .interval .grid { stroke: var(--line); stroke-width: 1; }
      .before { stroke: var(--muted); fill: var(--paper); stroke-width: 2; }
      .after { stroke: var(--first); fill: var(--first); stroke-width: 2; }
      dl {
        display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 12px;
        margin: 18px 0 0;
      }
      dl div { background: var(--card); border-radius: 8px; padding: 10px 14px; }
      dt { color: var(--muted); font-size: 13px; }
      dd { margin: 0; font-size: 18px; font-weight: 600; font-variant-numeric: tabular-nums; }
      .curves {
        display: grid; grid-template-columns: repeat(auto-fill, minmax(min(310px, 100%), 1fr));
        gap: 26px 30px;
      }
      figcaption { display: flex; flex-wrap: wrap; gap: 0 12px; align-items: baseline; }
      .curves figcaption { font-size: 14px; margin-bottom: 4px; }
      .key { color: var(--muted); font-size: 12px; white-space: nowrap; }
      .key i { display: inline-block; margin-right: 5px; vertical-align: middle; }
      .key .line { width: 14px; height: 3px; border-radius: 2px; }
      .key .point { width: 8px; height: 8px; border-radius: 50%; }
      .scenes {
        display: grid; grid-template-columns: repeat(auto-fill, minmax(min(310px, 100%), 1fr));
        gap: 18px;
      }
      .scene { background: var(--card); border-radius: 8px; padding: 12px 14px 10px; }
      .scene figcaption { justify-content: space-between; margin-bottom: 8px; }
      .scene figcaption span { color: var(--muted); font-size: 13px; }
      .scene figcaption span b { color: var(--text); }
      .scene .note { margin: 4px 0 0; font-size: 12px; }
      .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; }
      .glance svg { border-radius: 4px; }
      .glance p { margin: 5px 0 0; font-size: 13px; }
      .right { color: var(--right); }
      .wrong { color: var(--wrong); }
      .right, .wrong { font-weight: 600; white-space: nowrap; }
      .scale { display: flex; align-items: center; gap: 8px; margin: 14px 0 0; font-size: 13px; }
      .scale i { width: 160px; height: 12px; border-radius: 2px; }
      .settings { font-size: 14px; }
      .settings tbody { display: block; columns: 3 280px; column-gap: 32px; }
      .settings tr { display: flex; justify-content: space-between; gap: 16px;
        border-bottom: 1px solid var(--line); padding: 5px 0; break-inside: avoid; }
      .settings th, .settings td { border: 0; padding: 0; overflow-wrap: anywhere; }
      .settings th { color: var(--muted); white-space: nowrap; }
      .settings td { text-align: right; }
      @media print { main { padding: 0; } figure, tr { break-inside: avoid; } }
      """;

  private Style() {}
}
