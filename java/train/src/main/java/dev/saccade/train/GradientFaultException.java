package dev.saccade.train;

/**
 * A gradient was not finite. The message gives the step, the tensor and the folder with the
 * operations of that update; the run is as it was at its last checkpoint.
 */
public final class GradientFaultException extends RuntimeException {
  private static final long serialVersionUID = 1;

  GradientFaultException(String message) {
    super(message);
  }
}
