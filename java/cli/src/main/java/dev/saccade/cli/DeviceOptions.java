package dev.saccade.cli;

import dev.saccade.Device;
import picocli.CommandLine.Option;

/** Where to compute, and with how many threads. */
class DeviceOptions {
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
}
