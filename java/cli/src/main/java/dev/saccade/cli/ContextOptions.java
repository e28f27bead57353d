package dev.saccade.cli;

import dev.saccade.Context;
import dev.saccade.Device;
import picocli.CommandLine.Option;

/** The options of every command that computes: where, and with how many threads. */
final class ContextOptions {
  @Option(
      names = "--device",
      paramLabel = "DEVICE",
      defaultValue = "cpu",
      converter = DeviceConverter.class,
      description = "cpu, cuda or cuda:N (default: ${DEFAULT-VALUE}).")
  Device device;

  @Option(
      names = "--threads",
      paramLabel = "N",
      defaultValue = "0",
      description = "CPU threads; 0, the default, for all that this process may use.")
  int threads;

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
