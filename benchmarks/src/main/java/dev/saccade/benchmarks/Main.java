package dev.saccade.benchmarks;

import java.io.IOException;
import java.util.Arrays;
import java.util.stream.Stream;

/** JMH's own command line, with {@link Probe}. */
public final class Main {
  private Main() {}

  /**
   * @param args options of JMH
   */
  public static void main(String[] args) throws IOException {
    org.openjdk.jmh.Main.main(
        Stream.concat(Arrays.stream(args), Stream.of("-prof", Probe.class.getName()))
            .toArray(String[]::new));
  }
}
