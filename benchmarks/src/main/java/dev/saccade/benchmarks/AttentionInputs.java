package dev.saccade.benchmarks;

import dev.saccade.DType;
import java.util.Arrays;

/**
 * One sequence of causal grouped-query attention, bottom-right aligned as in docs/spec.md §8.
 *
 * @param q [rows, heads, dim]
 * @param k [keys, kvHeads, dim]
 * @param v [keys, kvHeads, dim]
 * @param dO [rows, heads, dim], gradient of the attention's result
 * @param ref [rows, keys], the reference's attention map, 0 off the support
 * @param weights [rows]
 */
public record AttentionInputs(
    Shape shape, float[] q, float[] k, float[] v, float[] dO, float[] ref, float[] weights) {
  /** Sizes. */
  public record Shape(int heads, int kvHeads, int rows, int keys, int dim) {
    /** {@code sequences} of them, for people. */
    String times(int sequences) {
      return sequences == 1 ? toString() : sequences + " × " + this;
    }

    long querySize() {
      return (long) rows * heads * dim;
    }

    long keySize() {
      return (long) keys * kvHeads * dim;
    }

    /** Operations of one product over the visible keys. */
    double productFlops() {
      double visible = rows * (keys - rows + (rows + 1) / 2.0);
      return 2 * visible * heads * dim;
    }

    /**
     * A matrix [rows, keys] of {@code seen} where a row sees a key, else {@code hidden}.
     *
     * @param own whether a row sees its own position
     */
    public float[] mask(float seen, float hidden, boolean own) {
      float[] mask = new float[Math.multiplyExact(rows, keys)];
      for (int i = 0; i < rows; i++) {
        int end = i * keys + keys - rows + i + (own ? 1 : 0);
        Arrays.fill(mask, i * keys, end, seen);
        Arrays.fill(mask, end, (i + 1) * keys, hidden);
      }
      return mask;
    }

    @Override
    public String toString() {
      return "%d/%d heads of %d; %d rows; %d keys".formatted(heads, kvHeads, dim, rows, keys);
    }
  }

  /** Normal values; those of q and k are such as {@code dtype} holds. */
  static AttentionInputs of(Shape shape, DType dtype) {
    float[] ref = shape.mask(1, 0, false);
    float[] noise = Data.normal(5, ref.length, 1);
    for (int row = 0; row < ref.length; row += shape.keys) {
      double sum = 0;
      for (int j = row; j < row + shape.keys; j++) {
        ref[j] *= (float) Math.exp(noise[j]);
        sum += ref[j];
      }
      for (int j = row; j < row + shape.keys && sum > 0; j++) {
        ref[j] /= (float) sum;
      }
    }
    return new AttentionInputs(
        shape,
        Data.rounded(dtype, Data.normal(1, shape.querySize(), 1)),
        Data.rounded(dtype, Data.normal(2, shape.keySize(), 1)),
        Data.normal(3, shape.keySize(), 1),
        Data.normal(4, shape.querySize(), 1),
        ref,
        Data.normal(6, shape.rows, 1));
  }
}
