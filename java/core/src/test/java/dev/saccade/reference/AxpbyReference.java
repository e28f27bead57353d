package dev.saccade.reference;

/** {@code axpby} in double precision, from its definition; one element. */
public final class AxpbyReference {
  private AxpbyReference() {}

  /** a·x + b·y; y is not read where b is 0. */
  public static double apply(double a, double x, double b, double y) {
    return b == 0 ? a * x : a * x + b * y;
  }
}
