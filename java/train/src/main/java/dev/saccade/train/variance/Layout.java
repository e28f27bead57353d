package dev.saccade.train.variance;

import dev.saccade.GatherRows;
import dev.saccade.Gemm;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.model.TransformerConfig;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;

/**
 * Where the parts of a gradient sample lie in one flat vector, and which layer, head and row each
 * belongs to.
 *
 * <p>For every layer: the gradients of the projections {@code q_proj}, {@code k_proj}, {@code
 * v_proj} and {@code o_proj}, whose key heads are fewer where queries share them; of the queries
 * {@code q} of the response rows; of the keys {@code k} of all rows. Rows are aligned by their
 * index: query row t belongs to the t-th token of a response, key row j to the j-th position of the
 * sequence; rows that a sequence lacks have gradient 0.
 */
final class Layout {
  /**
   * A part of the gradient that statistics are told of.
   *
   * @param target {@code q_proj}, {@code k_proj}, {@code v_proj}, {@code o_proj}, {@code q} or
   *     {@code k}, or what a file of samples calls it
   */
  record Part(String target, int layer, int head) {}

  /** Rows of a target of a layer: the segments that a row has, over the heads. */
  record Row(String target, int layer, int row) {}

  private final List<Part> parts = new ArrayList<>();
  private final List<Row> rows = new ArrayList<>();
  private final Map<Part, Integer> indexOfPart = new LinkedHashMap<>();
  private final Map<Row, Integer> indexOfRow = new LinkedHashMap<>();
  private final List<long[]> segments = new ArrayList<>();
  private final Map<String, Product> products = new LinkedHashMap<>();
  private TransformerConfig config;
  private int responseRows;
  private int keyRows;
  private long size;

  /** Elements of the vector. */
  private record Range(long begin, long end) {
    Tensor of(Tensor sample) {
      return sample.rows(begin, end);
    }
  }

  /**
   * What the product of a parameter brings.
   *
   * @param weight its gradient
   * @param rows where those of the queries begin, which those of the keys follow; -1: none
   */
  private record Product(Range weight, long rows) {}

  private Layout() {}

  /**
   * Of a policy.
   *
   * @param responseRows of the longest response
   * @param keyRows of the longest sequence
   */
  static Layout of(TransformerConfig config, int responseRows, int keyRows) {
    Layout layout = new Layout();
    int h = config.heads();
    int kv = config.kvHeads();
    int d = config.headDim();
    layout.config = config;
    layout.responseRows = responseRows;
    layout.keyRows = keyRows;
    for (int l = 0; l < config.layers(); l++) {
      long qkv = layout.size;
      for (int i = 0; i < config.width(); i++) {
        for (int s = 0; s < h + 2 * kv; s++) {
          String target = s < h ? "q_proj" : s < h + kv ? "k_proj" : "v_proj";
          layout.segment(new Part(target, l, s < h ? s : (s - h) % kv), -1, d);
        }
      }
      long output = layout.size;
      for (int s = 0; s < h; s++) {
        layout.segment(new Part("o_proj", l, s), -1, (long) d * config.width());
      }
      long queries = layout.size;
      for (int t = 0; t < responseRows; t++) {
        for (int s = 0; s < h; s++) {
          layout.segment(new Part("q", l, s), t, d);
        }
      }
      for (int t = 0; t < keyRows; t++) {
        for (int s = 0; s < kv; s++) {
          layout.segment(new Part("k", l, s), t, d);
        }
      }
      layout.products.put("layer" + l + ".qkv", new Product(new Range(qkv, output), queries));
      layout.products.put("layer" + l + ".output", new Product(new Range(output, queries), -1));
    }
    return layout;
  }

  /** Of parts with given numbers of elements, without rows. */
  static Layout of(Map<Part, Long> sizes) {
    Layout layout = new Layout();
    sizes.forEach((part, elements) -> layout.segment(part, -1, elements));
    return layout;
  }

  private void segment(Part part, int row, long length) {
    int p = indexOfPart.computeIfAbsent(part, any -> parts.size());
    if (p == parts.size()) {
      parts.add(part);
    }
    int r = -1;
    if (row >= 0) {
      Row own = new Row(part.target, part.layer, row);
      r = indexOfRow.computeIfAbsent(own, any -> rows.size());
      if (r == rows.size()) {
        rows.add(own);
      }
    }
    segments.add(new long[] {size, p, r});
    size += length;
  }

  /** Elements of a sample. */
  long size() {
    return size;
  }

  List<Part> parts() {
    return parts;
  }

  List<Row> rows() {
    return rows;
  }

  /** i64[segments + 1]: where they begin. */
  Tensor offsets(Scope scope) {
    long[] offsets = new long[segments.size() + 1];
    for (int i = 0; i < segments.size(); i++) {
      offsets[i] = segments.get(i)[0];
    }
    offsets[segments.size()] = size;
    return Tensor.of(scope, offsets, new long[] {offsets.length});
  }

  /** Sums values of segments over every part. */
  double[] byPart(float[] values) {
    return sum(values, parts.size(), 1);
  }

  /** Sums values of segments over every row. */
  double[] byRow(float[] values) {
    return sum(values, rows.size(), 2);
  }

  private double[] sum(float[] values, int count, int key) {
    double[] sums = new double[count];
    for (int i = 0; i < values.length; i++) {
      int index = (int) segments.get(i)[key];
      if (index >= 0) {
        sums[index] += values[i];
      }
    }
    return sums;
  }

  /** Inner products of two samples, by part. */
  double[] products(float[] a, float[] b) {
    double[] sums = new double[parts.size()];
    for (int i = 0; i < segments.size(); i++) {
      int begin = (int) segments.get(i)[0];
      int end = (int) (i + 1 < segments.size() ? segments.get(i + 1)[0] : size);
      double sum = 0;
      for (int j = begin; j < end; j++) {
        sum += (double) a[j] * b[j];
      }
      sums[(int) segments.get(i)[1]] += sum;
    }
    return sums;
  }

  /** The elements of every part, in order. */
  Map<Part, float[]> split(float[] sample) {
    int[] lengths = new int[parts.size()];
    for (int pass = 0; ; pass++) {
      Map<Part, float[]> split = new LinkedHashMap<>();
      if (pass == 1) {
        for (int p = 0; p < lengths.length; p++) {
          split.put(parts.get(p), new float[lengths[p]]);
          lengths[p] = 0;
        }
      }
      for (int i = 0; i < segments.size(); i++) {
        int begin = (int) segments.get(i)[0];
        int end = (int) (i + 1 < segments.size() ? segments.get(i + 1)[0] : size);
        int p = (int) segments.get(i)[1];
        if (pass == 1) {
          System.arraycopy(sample, begin, split.get(parts.get(p)), lengths[p], end - begin);
        }
        lengths[p] += end - begin;
      }
      if (pass == 1) {
        return split;
      }
    }
  }

  /**
   * Where the rows of a batch lie, in pieces of a head.
   *
   * @param offsets first row of each sequence, and the end
   * @param from i32[pieces], in the gradients of queries, keys and values; -1: none, which is 0
   * @param to i32[pieces], in the samples, from the first query of a layer on
   */
  record Rows(int[] offsets, Tensor from, Tensor to) {
    Rows with(UnaryOperator<Tensor> tensors) {
      return new Rows(offsets, tensors.apply(from), tensors.apply(to));
    }
  }

  /**
   * @param batch none of whose sequences share a prompt
   */
  Rows rows(Scope scope, Batch batch) {
    int[] offsets = batch.offsets();
    int h = config.heads();
    int kv = config.kvHeads();
    int perRow = h + 2 * kv;
    int queries = responseRows * h;
    int pieces = queries + keyRows * kv;
    long apart = size / config.headDim();
    int[] from = new int[Math.multiplyExact(batch.sequences(), pieces)];
    int[] to = new int[from.length];
    Arrays.fill(from, -1);
    for (int s = 0; s < batch.sequences(); s++) {
      int at = s * pieces;
      for (int i = 0; i < pieces; i++) {
        to[at + i] = Math.toIntExact(s * apart + i);
      }
      int prompt = batch.prompts().get(batch.promptOf(s)).length();
      int response = batch.response(s).length;
      for (int i = 0; i < response * h; i++) {
        from[at + i] = (offsets[s] + prompt - 1 + i / h) * perRow + i % h;
      }
      for (int i = 0; i < (prompt + response - 1) * kv; i++) {
        from[at + queries + i] = (offsets[s] + i / kv) * perRow + h + i % kv;
      }
    }
    return new Rows(offsets, Tensor.of(scope, from), Tensor.of(scope, to));
  }

  /**
   * The backward pass of a batch, into a sample of each sequence: nothing but operations.
   *
   * @param rows of the batch
   * @param samples f32[n, size], n at least the sequences; a row for each is overwritten
   */
  void backward(
      Transformer policy,
      PolicyModel.Activations pass,
      Rows rows,
      Tensor dLogits,
      List<PolicyModel.AttentionGradient> attention,
      Tensor samples) {
    int[] offsets = rows.offsets;
    Gemm.Options weightGradient =
        Gemm.Options.DEFAULT.withTransA(true).withPrecision(policy.precision());
    policy.backward(
        pass,
        dLogits,
        attention,
        (weight, x, dy) -> {
          Product product = products.get(weight.name());
          for (int s = 0; product != null && s < offsets.length - 1; s++) {
            Gemm.multiply(
                policy.context(),
                x.rows(offsets[s], offsets[s + 1]),
                dy.rows(offsets[s], offsets[s + 1]),
                weightGradient,
                product
                    .weight
                    .of(samples.rows(s, s + 1).reshape(size))
                    .reshape(weight.value().shape()));
          }
          if (product != null && product.rows >= 0) {
            Tensor behind = samples.reshape(samples.size()).rows(product.rows, samples.size());
            GatherRows.gather(
                policy.context(), pieces(dy), rows.from, rows.to, false, pieces(behind));
          }
        });
  }

  /** A row for each head. */
  private Tensor pieces(Tensor values) {
    return values.reshape(values.size() / config.headDim(), config.headDim());
  }
}
