package dev.saccade.cli;

import dev.saccade.Context;
import picocli.CommandLine.Option;

/** The options of every command that computes in a context of its own. */
final class ContextOptions extends DeviceOptions {
  @Option(
      names = "--instruction-set",
      paramLabel = "NAME",
      defaultValue = "",
      description = "avx512, avx2 or baseline; the best that the machine has, unless given.")
  String instructionSet;

  /**
   * A new context.
   *
   * @throws dev.saccade.SaccadeException if the machine or the build lacks what the options name
   */
  Context open() {
    return Context.builder().device(device).threads(threads).instructionSet(instructionSet).build();
  }
}
