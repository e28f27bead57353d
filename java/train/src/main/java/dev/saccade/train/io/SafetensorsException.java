package dev.saccade.train.io;

import java.io.IOException;
import java.nio.file.Path;

/** A file is not a well-formed safetensors file. The message names the file and what is wrong. */
public final class SafetensorsException extends IOException {
  private static final long serialVersionUID = 1L;

  /**
   * @param file the file
   * @param problem what is wrong with it
   */
  public SafetensorsException(Path file, String problem) {
    super(file + ": not a safetensors file: " + problem);
  }
}
