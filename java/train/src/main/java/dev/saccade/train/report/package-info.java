/**
 * The report of a training run: one HTML file with before and after, curves and the attention on
 * some scenes, that opens without network and without scripts. {@link
 * dev.saccade.train.report.Report} writes it from a {@link dev.saccade.train.report.ReportData}.
 */
package dev.saccade.train.report;
