package dev.saccade.benchmarks;

import dev.saccade.DType;
import java.util.SplittableRandom;

/** Random inputs; the same seed gives the same values. */
final class Data {
  private Data() {}

  /** Normal values of mean 0. */
  static float[] normal(long seed, long size, double deviation) {
    return normal(seed, size, 0, deviation);
  }

  static float[] normal(long seed, long size, double mean, double deviation) {
    SplittableRandom random = new SplittableRandom(seed);
    float[] values = new float[Math.toIntExact(size)];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) (mean + deviation * random.nextGaussian());
    }
    return values;
  }

  /** Values of {@code base} with normal noise. */
  static float[] near(long seed, float[] base, double deviation) {
    float[] values = normal(seed, base.length, deviation);
    for (int i = 0; i < values.length; i++) {
      values[i] += base[i];
    }
    return values;
  }

  /** The nearest values that {@code dtype}, f32 or bf16, holds; in place. */
  static float[] rounded(DType dtype, float[] values) {
    for (int i = 0; i < values.length && dtype == DType.BF16; i++) {
      values[i] = DType.bf16ToFloat(DType.floatToBf16(values[i]));
    }
    return values;
  }

  /** Uniform in 0 … bound-1. */
  static int[] indices(long seed, int size, int bound) {
    return new SplittableRandom(seed).ints(size, 0, bound).toArray();
  }
}
