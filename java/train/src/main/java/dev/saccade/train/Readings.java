package dev.saccade.train;

import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.Arrays;

/**
 * Numbers that operations leave on the device, f32, side by side: {@link #read} brings all of them
 * to the host in one copy.
 */
final class Readings {
  private final Tensor all;
  private float[] values;
  private int used;

  /**
   * @param capacity most numbers
   */
  Readings(Scope scope, int capacity) {
    all = Tensor.empty(scope, DType.F32, capacity);
  }

  /** Room for {@code size} numbers more, which an operation is to write before {@link #read}. */
  Reading take(int size) {
    Reading reading = new Reading(used, size);
    used += size;
    return reading;
  }

  /** Waits for what was taken so far. */
  void read() {
    values = all.rows(0, used).toFloats();
  }

  /** A few of the numbers; their values are those at the last {@link #read}. */
  final class Reading {
    private final int from;
    private final int size;

    private Reading(int from, int size) {
      this.from = from;
      this.size = size;
    }

    /** f32[size]: where they are written to. */
    Tensor tensor() {
      return all.rows(from, from + size);
    }

    float[] values() {
      return Arrays.copyOfRange(values, from, from + size);
    }

    /** The only one. */
    float value() {
      return values[from];
    }

    double mean() {
      return Readings.mean(values());
    }

    boolean isFinite() {
      return Float.isFinite(value());
    }
  }

  static double mean(float[] values) {
    double sum = 0;
    for (float x : values) {
      sum += x;
    }
    return sum / values.length;
  }
}
