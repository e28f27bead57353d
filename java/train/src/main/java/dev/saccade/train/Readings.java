package dev.saccade.train;

import dev.saccade.Tensor;
import java.util.Arrays;

/**
 * A layout of numbers that operations leave on the device, f32, side by side, so that one copy
 * brings all of them to the host.
 */
final class Readings {
  private int used;

  /** Room for {@code size} numbers more. */
  Reading take(int size) {
    Reading reading = new Reading(used, size);
    used += size;
    return reading;
  }

  /** Numbers of all that was taken. */
  int size() {
    return used;
  }

  /** Some of the numbers. */
  record Reading(int from, int size) {
    /**
     * f32[size]: where they are written to.
     *
     * @param all f32[{@link Readings#size}]
     */
    Tensor in(Tensor all) {
      return all.rows(from, from + size);
    }

    float[] in(float[] all) {
      return Arrays.copyOfRange(all, from, from + size);
    }

    /** The only one. */
    float value(float[] all) {
      return all[from];
    }
  }
}
