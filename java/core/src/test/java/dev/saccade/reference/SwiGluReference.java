package dev.saccade.reference;

/** {@code swiglu} in double precision, from its definition; one element. */
public final class SwiGluReference {
  private SwiGluReference() {}

  /** silu(gate) · up. */
  public static double forward(double gate, double up) {
    return gate / (1 + Math.exp(-gate)) * up;
  }

  /** ∂/∂gate: up · σ·(1 + gate·(1 − σ)). */
  public static double dGate(double gate, double up) {
    double sigmoid = 1 / (1 + Math.exp(-gate));
    return up * sigmoid * (1 + gate / (1 + Math.exp(gate)));
  }

  /** ∂/∂up: silu(gate). */
  public static double dUp(double gate) {
    return gate / (1 + Math.exp(-gate));
  }
}
