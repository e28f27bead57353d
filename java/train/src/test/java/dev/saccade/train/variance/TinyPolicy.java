package dev.saccade.train.variance;

import dev.saccade.Context;
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.Prompt;
import dev.saccade.train.model.ReferenceTransformer;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.model.TransformerConfig;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.function.ToDoubleFunction;

/**
 * A policy of four tokens and responses of two tokens at most, all of which are listed, with
 * gradients of its expectations by differences in double precision.
 */
final class TinyPolicy {
  static final int STOP = 3;
  static final TransformerConfig SIZE = new TransformerConfig(4, 4, 8, 8, 1, 2, 1, 4, 8);
  private static final double STEP = 1e-5;

  /** The parameters that gradients are taken of, in the order of a {@link Layout}. */
  private static final List<String> PARAMETERS = List.of("layer0.qkv", "layer0.output");

  final Transformer model;
  private final ReferenceTransformer reference;
  private final int length;

  TinyPolicy(Context context, long seed, int length) {
    this(Transformer.create(context, SIZE, seed), length);
  }

  private TinyPolicy(Transformer model, int length) {
    this.model = model;
    this.length = length;
    reference = new ReferenceTransformer(model);
  }

  /** A policy beside another. */
  static TinyPolicy near(TinyPolicy other, double distance) {
    Transformer model = other.model.copy();
    Random random = new Random(5);
    model
        .parameters()
        .forEach(
            parameter -> {
              float[] values = parameter.value().toFloats();
              for (int i = 0; i < values.length; i++) {
                values[i] += (float) (distance * random.nextGaussian());
              }
              parameter.value().copyFrom(values);
            });
    return new TinyPolicy(model, other.length);
  }

  static Prompt prompt(int which) {
    Random random = new Random(100 + which);
    float[] patches = new float[2 * SIZE.patchSize()];
    for (int i = 0; i < patches.length; i++) {
      patches[i] = (float) random.nextGaussian();
    }
    return new Prompt(patches, 2, new int[] {which % 3});
  }

  static double reward(int[] response) {
    return response[0] == 1 ? 1 : response.length > 1 && response[1] == 2 ? 0.5 : 0;
  }

  /** Every response that can be. */
  List<int[]> responses() {
    List<int[]> all = new ArrayList<>();
    for (int a = 0; a < SIZE.vocabulary(); a++) {
      if (a == STOP || length == 1) {
        all.add(new int[] {a});
        continue;
      }
      for (int b = 0; b < SIZE.vocabulary(); b++) {
        all.add(new int[] {a, b});
      }
    }
    return all;
  }

  double logProbability(Prompt prompt, int[] response) {
    Batch batch = Batch.of(List.of(prompt), new int[] {0}, new int[][] {response});
    double[][] logits = reference.forward(batch).logits();
    double sum = 0;
    for (int t = 0; t < response.length; t++) {
      double total = 0;
      for (double z : logits[t]) {
        total += Math.exp(z);
      }
      sum += logits[t][response[t]] - Math.log(total);
    }
    return sum;
  }

  double probability(Prompt prompt, int[] response) {
    return Math.exp(logProbability(prompt, response));
  }

  /** Derivatives of a function of this policy, by differences. */
  double[] gradient(ToDoubleFunction<TinyPolicy> function) {
    List<Double> gradient = new ArrayList<>();
    for (String name : PARAMETERS) {
      double[] weights = reference.weights(name);
      for (int i = 0; i < weights.length; i++) {
        double at = weights[i];
        weights[i] = at + STEP;
        double above = function.applyAsDouble(this);
        weights[i] = at - STEP;
        double below = function.applyAsDouble(this);
        weights[i] = at;
        gradient.add((above - below) / (2 * STEP));
      }
    }
    return gradient.stream().mapToDouble(Double::doubleValue).toArray();
  }

  double expectedReward(Prompt prompt) {
    double sum = 0;
    for (int[] response : responses()) {
      sum += probability(prompt, response) * reward(response);
    }
    return sum;
  }
}
