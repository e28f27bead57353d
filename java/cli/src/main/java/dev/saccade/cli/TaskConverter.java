package dev.saccade.cli;

import dev.saccade.train.task.TaskMixture;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.TypeConversionException;

/** Reads task names joined by {@code '+'}. */
final class TaskConverter implements ITypeConverter<TaskMixture> {
  @Override
  public TaskMixture convert(String text) {
    try {
      return TaskMixture.parse(text);
    } catch (IllegalArgumentException e) {
      throw new TypeConversionException(e.getMessage());
    }
  }
}
