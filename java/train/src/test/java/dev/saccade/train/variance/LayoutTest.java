package dev.saccade.train.variance;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Divergence;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.Contexts;
import dev.saccade.train.MatrixProducts;
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.PolicyModel.Activations;
import dev.saccade.train.model.PolicyModel.AttentionGradient;
import dev.saccade.train.model.PolicyModel.Inputs;
import dev.saccade.train.model.Prompt;
import dev.saccade.train.variance.Layout.Part;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;

/** Where gradients lie in a sample. */
class LayoutTest {
  private static final int RESPONSE_ROWS = 3;
  private static final int KEY_ROWS = 6;

  @Test
  void aSampleHoldsTheGradientsOfQueriesAndKeysByHead() {
    try (Context context = Context.builder().threads(1).build();
        Scope scope = context.scope()) {
      MatrixProducts.provideTo(context);
      TinyPolicy policy = new TinyPolicy(context, 3, 2);
      Layout layout = Layout.of(TinyPolicy.SIZE, RESPONSE_ROWS, KEY_ROWS);
      Tensor sample = Tensor.of(scope, normal((int) layout.size()), 1, layout.size());
      Batch batch = Batch.of(List.of(TinyPolicy.prompt(0)), new int[] {0}, new int[][] {{1, 2}});
      Inputs inputs = policy.model.prepare(scope, batch);
      Activations pass = policy.model.forward(scope, inputs, 0);
      float[] dq = normal(2 * 2 * 4);
      float[] dk = normal(batch.rows() * 4);

      Tensor dLogits = Tensor.zeros(scope, DType.F32, 2, 4);
      List<AttentionGradient> gradients =
          List.of(
              new AttentionGradient(
                  0, Tensor.of(scope, dq, 2, 2, 4), Tensor.of(scope, dk, batch.rows(), 1, 4)));
      policy.model.backward(pass, dLogits, gradients);
      layout.backward(policy.model, pass, layout.rows(scope, batch), dLogits, gradients, sample);

      Map<Part, float[]> parts = layout.split(sample.toFloats());
      for (int head = 0; head < 2; head++) {
        float[] own = parts.get(new Part("q", 0, head));
        assertThat(own).hasSize(RESPONSE_ROWS * 4);
        for (int i = 0; i < own.length; i++) {
          float expected = i < 8 ? dq[i / 4 * 8 + head * 4 + i % 4] : 0;
          assertThat(own[i]).as("q, head %d, element %d", head, i).isEqualTo(expected);
        }
      }
      float[] keys = parts.get(new Part("k", 0, 0));
      assertThat(keys).hasSize(KEY_ROWS * 4);
      for (int i = 0; i < keys.length; i++) {
        assertThat(keys[i]).as("k, element %d", i).isEqualTo(i < dk.length ? dk[i] : 0);
      }
      // The loss does not reach values and outputs, but the projections of queries and keys.
      assertThat(parts.get(new Part("v_proj", 0, 0))).containsOnly(0);
      assertThat(parts.get(new Part("o_proj", 0, 1))).containsOnly(0);
      float[] projection = parts.get(new Part("q_proj", 0, 1));
      Tensor qkv =
          policy.model.parameters().stream()
              .filter(parameter -> parameter.name().equals("layer0.qkv"))
              .findFirst()
              .orElseThrow()
              .gradient();
      float[] whole = qkv.toFloats();
      for (int i = 0; i < projection.length; i++) {
        assertThat(projection[i]).isNotZero().isEqualTo(whole[i / 4 * 16 + 4 + i % 4]);
      }
      policy.model.close();
    }
  }

  private static float[] normal(int count) {
    Random random = new Random(count);
    float[] values = new float[count];
    for (int i = 0; i < count; i++) {
      values[i] = (float) random.nextGaussian();
    }
    return values;
  }

  /** Responses of other lengths, packed with them, change the contributions by rounding alone. */
  @Test
  void everyResponseHasItsOwnContribution() {
    try (Context context = Context.builder().threads(1).build();
        Scope scope = context.scope()) {
      MatrixProducts.provideTo(context);
      TinyPolicy policy = new TinyPolicy(context, 3, 2);
      Layout layout = Layout.of(TinyPolicy.SIZE, RESPONSE_ROWS, KEY_ROWS);
      int[][] responses = {{1, 2}, {3}, {0, 1, 3}};
      Batch group =
          Batch.of(Collections.nCopies(3, TinyPolicy.prompt(0)), new int[] {0, 1, 2}, responses);
      float[] dLogits = normal(group.responseRows() * 4);
      float[] together = samples(scope, policy, layout, group, dLogits);
      int[] offsets = group.responseOffsets();
      int size = (int) layout.size();
      for (int i = 0; i < responses.length; i++) {
        Batch one =
            Batch.of(List.of(TinyPolicy.prompt(0)), new int[] {0}, new int[][] {responses[i]});
        float[] own = Arrays.copyOfRange(dLogits, offsets[i] * 4, offsets[i + 1] * 4);
        float[] alone = samples(scope, policy, layout, one, own);
        for (int j = 0; j < size; j++) {
          assertThat(together[i * size + j])
              .as("response %d, element %d", i, j)
              .isCloseTo(alone[j], within(1e-5f));
        }
      }
      policy.model.close();
    }
  }

  private static float[] samples(
      Scope scope, TinyPolicy policy, Layout layout, Batch batch, float[] dLogits) {
    Activations pass = policy.model.forward(scope, batch);
    Tensor samples =
        Tensor.of(
            scope,
            normal(batch.sequences() * (int) layout.size()),
            batch.sequences(),
            layout.size());
    layout.backward(
        policy.model,
        pass,
        layout.rows(scope, batch),
        Tensor.of(scope, dLogits, batch.responseRows(), 4),
        List.of(),
        samples);
    return samples.toFloats();
  }

  /** Prompts of two lengths, responses of every length: room that is left changes nothing. */
  @Test
  void roomBehindResponsesAddsNothing() {
    try (Context context = Contexts.open(1)) {
      TinyPolicy policy = new TinyPolicy(context, 3, 2);
      TinyPolicy old = TinyPolicy.near(policy, 0.2);
      Prompt first = TinyPolicy.prompt(0);
      List<Prompt> prompts =
          List.of(first, new Prompt(first.patches(), first.patchCount(), new int[] {1, 2}));
      List<List<float[]>> gradients = new ArrayList<>();
      List<Block> blocks = new ArrayList<>();
      for (boolean padded : new boolean[] {false, true}) {
        try (Laboratory laboratory =
            new Laboratory(
                new Laboratory.Models(policy.model, old.model, old.model),
                prompts,
                (prompt, response) -> TinyPolicy.reward(response),
                Setting.DEFAULT,
                new AttentionChoice(new int[] {0}, 0, -1, Divergence.JSD, 0.5f, null),
                new Laboratory.Sampling(9, 7, 3, TinyPolicy.STOP),
                List.of("rloo", "kl", "ral", "positions", "expected_positions", "rloo+ral"),
                true) {
              @Override
              Batch.Room room() {
                return padded ? Batch.Room.of(prompts, 3) : null;
              }
            }) {
          for (int p = 0; p < 2; p++) {
            gradients.add(laboratory.gradients(p, new int[][] {{1, 0, 2}, {3}, {0, 3}}));
          }
          blocks.add(laboratory.measure(0, 2, null, () -> {}));
        }
      }
      for (int p = 0; p < 2; p++) {
        for (int e = 0; e < 6; e++) {
          float[] want = gradients.get(p).get(e);
          float[] got = gradients.get(2 + p).get(e);
          float most = 0;
          for (int i = 0; i < want.length; i++) {
            assertThat(got[i])
                .as("prompt %d, estimator %d, element %d", p, e, i)
                .isCloseTo(want[i], within(1e-5f));
            most = Math.max(most, Math.abs(want[i]));
          }
          assertThat(most).isGreaterThan(1e-3f);
        }
      }
      Block want = blocks.get(0);
      Block got = blocks.get(1);
      assertClose(got.entropy, want.entropy);
      assertClose(got.mass, want.mass);
      assertClose(got.totals, want.totals);
      want.moments.forEach(
          (name, moments) -> {
            Block.Moments own = got.moments.get(name);
            assertClose(own.within(), moments.within());
            assertClose(own.own(), moments.own());
            assertClose(own.second(), moments.second());
            assertClose(own.rows(), moments.rows());
            assertClose(own.scores(), moments.scores());
          });
      want.pairs.forEach((name, pair) -> assertClose(got.pairs.get(name).within(), pair.within()));
      policy.model.close();
      old.model.close();
    }
  }

  private static void assertClose(double[] got, double[] want) {
    assertThat(got).hasSameSizeAs(want);
    for (int i = 0; i < got.length; i++) {
      if (Double.isNaN(want[i])) {
        assertThat(got[i]).as("element %d", i).isNaN();
      } else {
        assertThat(got[i])
            .as("element %d", i)
            .isCloseTo(want[i], within(1e-4 * Math.abs(want[i]) + 1e-9));
      }
    }
  }

  @Test
  void aSumOfEstimatorsIsTheSumOfTheirGradients() {
    try (Context context = Context.builder().threads(1).build()) {
      MatrixProducts.provideTo(context);
      TinyPolicy policy = new TinyPolicy(context, 3, 2);
      TinyPolicy old = TinyPolicy.near(policy, 0.2);
      try (Laboratory laboratory =
          new Laboratory(
              new Laboratory.Models(policy.model, old.model, null),
              List.of(TinyPolicy.prompt(0)),
              (prompt, response) -> TinyPolicy.reward(response),
              Setting.DEFAULT,
              new AttentionChoice(new int[] {0}, 0, -1, Divergence.JSD, 0.5f, null),
              new Laboratory.Sampling(1, 7, 2, TinyPolicy.STOP),
              List.of("rloo", "ral", "rloo+ral"),
              false)) {
        List<float[]> gradients = laboratory.gradients(0, new int[][] {{1, 0}, {0, 2}, {3}});
        float most = 0;
        for (int i = 0; i < gradients.get(0).length; i++) {
          float sum = gradients.get(0)[i] + gradients.get(1)[i];
          assertThat(gradients.get(2)[i]).isCloseTo(sum, within(1e-6f));
          most = Math.max(most, Math.abs(gradients.get(1)[i]));
        }
        assertThat(most).isGreaterThan(1e-5f);
      }
      policy.model.close();
      old.model.close();
    }
  }
}
