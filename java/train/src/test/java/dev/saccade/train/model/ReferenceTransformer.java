package dev.saccade.train.model;

import java.util.HashMap;
import java.util.Map;

/**
 * The forward pass of {@link Transformer} in double precision, from its definition: one sequence
 * after another, one position after another, no packing and no cache.
 */
public final class ReferenceTransformer {
  private static final double EPS = 1e-6;

  private final TransformerConfig config;
  private final Map<String, double[]> weights = new HashMap<>();

  /** Takes the weights that the model has now. */
  public ReferenceTransformer(Transformer model) {
    config = model.config();
    for (Parameter parameter : model.parameters()) {
      weights.put(parameter.name(), parameter.value().toDoubles());
    }
  }

  /** A parameter's values, row-major; writing to them changes the next forward pass. */
  public double[] weights(String name) {
    return weights.get(name);
  }

  /**
   * What a forward pass of a batch yields.
   *
   * @param logits [response rows][vocabulary]
   * @param q for each layer [response rows][heads · head dimension]
   * @param k for each layer [rows][key heads · head dimension]
   */
  public record Result(double[][] logits, double[][][] q, double[][][] k) {}

  public Result forward(Batch batch) {
    double[][] logits = new double[batch.responseRows()][];
    double[][][] q = new double[config.layers()][batch.responseRows()][];
    double[][][] k = new double[config.layers()][batch.rows()][];
    int row = 0;
    int responseRow = 0;
    for (int s = 0; s < batch.sequences(); s++) {
      Sequence sequence = new Sequence(batch.prompts().get(batch.promptOf(s)), batch.response(s));
      int length = sequence.x.length;
      int count = batch.response(s).length;
      for (int layer = 0; layer < config.layers(); layer++) {
        for (int i = 0; i < length; i++) {
          k[layer][row + i] = sequence.k[layer][i];
        }
        for (int i = 0; i < count; i++) {
          q[layer][responseRow + i] = sequence.q[layer][length - count + i];
        }
      }
      for (int i = 0; i < count; i++) {
        double[] norm = rmsNorm(sequence.x[length - count + i], weights("final_norm"));
        logits[responseRow + i] = times(norm, weights("head"), config.vocabulary());
      }
      row += length;
      responseRow += count;
    }
    return new Result(logits, q, k);
  }

  /** One sequence: a prompt and its response without the last token. */
  private final class Sequence {
    final double[][] x;
    final double[][][] q = new double[config.layers()][][];
    final double[][][] k = new double[config.layers()][][];

    Sequence(Prompt prompt, int[] response) {
      x = embed(prompt, response);
      for (int layer = 0; layer < config.layers(); layer++) {
        attend(layer);
        feedForward(layer);
      }
    }

    private double[][] embed(Prompt prompt, int[] response) {
      int width = config.width();
      double[][] rows = new double[prompt.length() + response.length - 1][width];
      for (int i = 0; i < rows.length; i++) {
        int t = i - prompt.patchCount();
        if (t < 0) {
          double[] patch = new double[config.patchSize()];
          for (int c = 0; c < patch.length; c++) {
            patch[c] = prompt.patches()[i * patch.length + c];
          }
          rows[i] = times(patch, weights("patch"), width);
        } else {
          int n = prompt.question().length;
          int token = t < n ? prompt.question()[t] : response[t - n];
          System.arraycopy(weights("token"), token * width, rows[i], 0, width);
        }
        for (int c = 0; c < width; c++) {
          rows[i][c] += weights("position")[i * width + c];
        }
      }
      return rows;
    }

    private void attend(int layer) {
      String name = "layer" + layer + ".";
      int d = config.headDim();
      int length = x.length;
      q[layer] = new double[length][];
      k[layer] = new double[length][];
      double[][] v = new double[length][];
      for (int i = 0; i < length; i++) {
        double[] norm = rmsNorm(x[i], weights(name + "attention_norm"));
        double[] qkv =
            times(norm, weights(name + "qkv"), (config.heads() + 2 * config.kvHeads()) * d);
        q[layer][i] = slice(qkv, 0, config.heads() * d);
        k[layer][i] = slice(qkv, config.heads() * d, config.kvHeads() * d);
        v[i] = slice(qkv, (config.heads() + config.kvHeads()) * d, config.kvHeads() * d);
      }
      for (int i = length - 1; i >= 0; i--) {
        double[] o = new double[config.heads() * d];
        for (int h = 0; h < config.heads(); h++) {
          int kv = h / (config.heads() / config.kvHeads());
          double[] p = new double[i + 1];
          double sum = 0;
          for (int j = 0; j <= i; j++) {
            double dot = 0;
            for (int c = 0; c < d; c++) {
              dot += q[layer][i][h * d + c] * k[layer][j][kv * d + c];
            }
            p[j] = Math.exp(dot / Math.sqrt(d));
            sum += p[j];
          }
          for (int j = 0; j <= i; j++) {
            for (int c = 0; c < d; c++) {
              o[h * d + c] += p[j] / sum * v[j][kv * d + c];
            }
          }
        }
        add(x[i], times(o, weights(name + "output"), config.width()));
      }
    }

    private void feedForward(int layer) {
      String name = "layer" + layer + ".";
      int hidden = config.hidden();
      for (double[] row : x) {
        double[] norm = rmsNorm(row, weights(name + "feed_forward_norm"));
        double[] gateUp = times(norm, weights(name + "gate_up"), 2 * hidden);
        double[] y = new double[hidden];
        for (int c = 0; c < hidden; c++) {
          y[c] = gateUp[c] / (1 + Math.exp(-gateUp[c])) * gateUp[hidden + c];
        }
        add(row, times(y, weights(name + "down"), config.width()));
      }
    }
  }

  private static double[] rmsNorm(double[] x, double[] weight) {
    double squares = 0;
    for (double value : x) {
      squares += value * value;
    }
    double[] y = new double[x.length];
    for (int c = 0; c < x.length; c++) {
      y[c] = x[c] / Math.sqrt(squares / x.length + EPS) * weight[c];
    }
    return y;
  }

  private static double[] times(double[] x, double[] matrix, int columns) {
    double[] y = new double[columns];
    for (int i = 0; i < x.length; i++) {
      for (int c = 0; c < columns; c++) {
        y[c] += x[i] * matrix[i * columns + c];
      }
    }
    return y;
  }

  private static double[] slice(double[] x, int from, int count) {
    double[] part = new double[count];
    System.arraycopy(x, from, part, 0, count);
    return part;
  }

  private static void add(double[] x, double[] y) {
    for (int c = 0; c < x.length; c++) {
      x[c] += y[c];
    }
  }
}
