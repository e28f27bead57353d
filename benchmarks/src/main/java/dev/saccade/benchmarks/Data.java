package dev.saccade.benchmarks;

import dev.saccade.DType;
import java.util.SplittableRandom;
import java.util.stream.IntStream;

/** Random inputs; the same seed gives the same values. */
final class Data {
  /** Elements that one generator makes, so that several threads can. */
  private static final int BLOCK = 1 << 18;

  private Data() {}

  /** Normal values of mean 0. */
  static float[] normal(long seed, long size, double deviation) {
    return normal(seed, size, 0, deviation);
  }

  static float[] normal(long seed, long size, double mean, double deviation) {
    float[] values = new float[Math.toIntExact(size)];
    SplittableRandom seeds = new SplittableRandom(seed);
    long[] blocks = seeds.longs((values.length + BLOCK - 1L) / BLOCK).toArray();
    IntStream.range(0, blocks.length)
        .parallel()
        .forEach(
            b -> {
              SplittableRandom random = new SplittableRandom(blocks[b]);
              int end = (int) Math.min(values.length, (b + 1L) * BLOCK);
              for (int i = b * BLOCK; i < end; i++) {
                values[i] = (float) (mean + deviation * random.nextGaussian());
              }
            });
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

  /** The nearest values that {@code dtype}, f32, bf16 or f16, holds; in place. */
  static float[] rounded(DType dtype, float[] values) {
    if (dtype != DType.F32) {
      boolean bf16 = dtype == DType.BF16;
      IntStream.range(0, values.length)
          .parallel()
          .forEach(
              i ->
                  values[i] =
                      bf16
                          ? DType.bf16ToFloat(DType.floatToBf16(values[i]))
                          : DType.f16ToFloat(DType.floatToF16(values[i])));
    }
    return values;
  }

  /** Uniform in 0 … bound-1. */
  static int[] indices(long seed, int size, int bound) {
    return new SplittableRandom(seed).ints(size, 0, bound).toArray();
  }
}
