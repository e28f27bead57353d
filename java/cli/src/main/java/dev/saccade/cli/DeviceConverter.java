package dev.saccade.cli;

import dev.saccade.Device;
import dev.saccade.InvalidArgumentException;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.TypeConversionException;

/** Reads {@code cpu}, {@code cuda} or {@code cuda:N}. */
final class DeviceConverter implements ITypeConverter<Device> {
  @Override
  public Device convert(String text) {
    try {
      return Device.parse(text);
    } catch (InvalidArgumentException e) {
      throw new TypeConversionException("expected " + e.expected() + ", got " + e.actual());
    }
  }
}
