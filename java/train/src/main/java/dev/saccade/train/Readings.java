package dev.saccade.train;

import dev.saccade.Tensor;
import java.util.Arrays;

/**
 * A layout of numbers that operations leave on the device, f32, side by side, so that one copy
 * brings all of them to the host.
 */
public final class Readings {
  private int used;

  /** Room for {@code size} numbers more. */
  public Reading take(int size) {
    Reading reading = new Reading(used, size);
    used += size;
    return reading;
  }

  /** Numbers of all that was taken. */
  public int size() {
    return used;
  }

  /** Some of the numbers. */
  public record Reading(int from, int size) {
    /**
     * f32[size]: where they are written to.
     *
     * @param all f32[{@link Readings#size}]
     */
    public Tensor in(Tensor all) {
      return all.rows(from, from + size);
    }

    public float[] in(float[] all) {
      return Arrays.copyOfRange(all, from, from + size);
    }

    /** The only one. */
    public float value(float[] all) {
      return all[from];
    }
  }
}
