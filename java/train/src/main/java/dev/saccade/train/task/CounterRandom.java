package dev.saccade.train.task;

import java.util.random.RandomGenerator;

/**
 * SplitMix64 started from a pair (seed, index): the stream of an index needs none of the streams
 * before it, so that the position in an endless data set is one {@code long}.
 *
 * <p>Bounded integers and doubles are drawn here and not by the defaults of {@link
 * RandomGenerator}, whose algorithms the JDK may change: a scene is the same on every JDK. Not
 * thread-safe; make one per index.
 *
 * <p>Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
 * with the output function "Mix13" of David Stafford.
 */
public final class CounterRandom implements RandomGenerator {

  private static final long GOLDEN_GAMMA = 0x9e3779b97f4a7c15L;

  private long state;

  /** The stream of {@code index} under {@code seed}; any values. */
  public CounterRandom(long seed, long index) {
    state = mix(mix(seed + GOLDEN_GAMMA) + GOLDEN_GAMMA * index);
  }

  @Override
  public long nextLong() {
    return mix(state += GOLDEN_GAMMA);
  }

  /**
   * Uniform in 0 … bound − 1, with a bias below bound · 2<sup>−32</sup>.
   *
   * @throws IllegalArgumentException if {@code bound} is not positive
   */
  @Override
  public int nextInt(int bound) {
    if (bound <= 0) {
      throw new IllegalArgumentException("bound must be positive, got " + bound);
    }
    return (int) ((nextLong() >>> 32) * bound >>> 32);
  }

  /** Uniform in [0, 1), a multiple of 2<sup>−53</sup>. */
  @Override
  public double nextDouble() {
    return (nextLong() >>> 11) * 0x1p-53;
  }

  private static long mix(long z) {
    z = (z ^ (z >>> 30)) * 0xbf58476d1ce4e5b9L;
    z = (z ^ (z >>> 27)) * 0x94d049bb133111ebL;
    return z ^ (z >>> 31);
  }
}
