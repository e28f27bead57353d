package dev.saccade.reference;

import java.util.Arrays;

/** {@code sample_tokens} in double precision, from its definition. */
public final class SampleTokensReference {
  private SampleTokensReference() {}

  /**
   * Philox4x32-10.
   *
   * @param counter 4 words
   * @param key 2 words
   * @return 4 words
   */
  public static int[] philox(int[] counter, int[] key) {
    int[] c = counter.clone();
    int[] k = key.clone();
    for (int round = 0; round < 10; round++) {
      long p0 = 0xd2511f53L * Integer.toUnsignedLong(c[0]);
      long p1 = 0xcd9e8d57L * Integer.toUnsignedLong(c[2]);
      c =
          new int[] {
            (int) (p1 >>> 32) ^ c[1] ^ k[0], (int) p1, (int) (p0 >>> 32) ^ c[3] ^ k[1], (int) p0
          };
      k[0] += 0x9e3779b9;
      k[1] += 0xbb67ae85;
    }
    return c;
  }

  /** The number in [0, 1) of a row: 53 bits of the first two words at counter (offset, stream). */
  public static double uniform(long seed, long offset, long stream) {
    int[] counter = {(int) offset, (int) (offset >>> 32), (int) stream, (int) (stream >>> 32)};
    int[] words = philox(counter, new int[] {(int) seed, (int) (seed >>> 32)});
    long bits = Integer.toUnsignedLong(words[1]) << 32 | Integer.toUnsignedLong(words[0]);
    return (bits >>> 11) * 0x1p-53;
  }

  /** Probabilities of softmax(logits / temperature). */
  public static double[] probabilities(float[] logits, double temperature) {
    double[] z = TokenLogProbsReference.scaled(logits, temperature);
    double lse = TokenLogProbsReference.lse(z);
    for (int j = 0; j < z.length; j++) {
      z[j] = Math.exp(z[j] - lse);
    }
    return z;
  }

  /**
   * The probabilities renormalised over the nucleus, 0 off it: logits in descending order are taken
   * until their probability reaches topP, with all that tie with the last.
   */
  public static double[] nucleus(float[] logits, double temperature, double topP) {
    double[] p = probabilities(logits, temperature);
    Integer[] order = new Integer[p.length];
    Arrays.setAll(order, j -> j);
    Arrays.sort(order, (a, b) -> Float.compare(logits[b], logits[a]));
    double reached = 0;
    float cutoff = logits[order[0]];
    for (int i = 0; i < order.length && reached < topP; i++) {
      cutoff = logits[order[i]];
      reached += p[order[i]];
    }
    double mass = 0;
    for (int j = 0; j < p.length; j++) {
      p[j] = logits[j] >= cutoff ? p[j] : 0;
      mass += p[j];
    }
    for (int j = 0; j < p.length; j++) {
      p[j] /= mass;
    }
    return p;
  }
}
