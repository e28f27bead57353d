package dev.saccade.train.variance;

import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Divergence;
import dev.saccade.GroupAdvantage;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.model.PolicyModel.Activations;
import dev.saccade.train.model.PolicyModel.AttentionGradient;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/**
 * An estimator of a gradient from a group of responses to a prompt: a sum of contributions, one of
 * each response, which may depend on the rewards of the others.
 */
interface Estimator {
  /** As configurations name it. */
  String name();

  /** What the response contributes; null where that is 0. */
  Signal of(Look look);

  /**
   * The gradient of a response's share of the loss, where the model's backward pass takes it up.
   *
   * @param dLogits f32[response rows, vocabulary]
   * @param attention of queries and keys
   * @param scores f32[heads, response rows] for each of {@code attention}: Σ over keys of the
   *     squared gradient with respect to the scaled attention scores
   */
  record Signal(Tensor dLogits, List<AttentionGradient> attention, List<Tensor> scores) {}

  /**
   * A response of a group, as an estimator sees it; the forward pass of the policy is open.
   *
   * @param scope of what is computed
   * @param setting of the measurement
   * @param attention which attention policies
   * @param pass of the response alone
   * @param targets i32[rows], its tokens
   * @param offsets i32[2]
   * @param oldLogProb f32[rows], under the policy that sampled
   * @param refLogProb f32[rows], under the reference of the KL term; null where there is none
   * @param oldMaps attention policies of the policy that sampled, of the layers of {@code
   *     attention}: f32[rows, keys]
   * @param visual i32[1, 2]: its visual tokens
   * @param rewards of the group
   * @param advantages of the group, as far as they were asked for
   * @param lengths tokens of the responses of the group
   * @param index of this response in the group
   * @param longest tokens of the longest possible response
   * @param draws of positions: uniform numbers by layer and row
   */
  record Look(
      Scope scope,
      Setting setting,
      AttentionChoice attention,
      Activations pass,
      Tensor targets,
      Tensor offsets,
      Tensor oldLogProb,
      Tensor refLogProb,
      List<Tensor> oldMaps,
      Tensor visual,
      float[] rewards,
      Map<GroupAdvantage.Estimator, float[]> advantages,
      int[] lengths,
      int index,
      int longest,
      Draws draws) {
    int rows() {
      return lengths[index];
    }

    /** The advantage of this response; null: no baseline, the reward itself. */
    double advantage(GroupAdvantage.Estimator estimator) {
      return estimator == null
          ? rewards[index]
          : advantages
              .computeIfAbsent(estimator, any -> Estimator.advantages(scope, rewards, estimator))[
              index];
    }

    /** The weight of a token of this response in the mean over the group. */
    double tokenWeight() {
      int group = lengths.length;
      return switch (setting.aggregation()) {
        case SEQ_MEAN_TOKEN_SUM -> 1.0 / group;
        case SEQ_MEAN_TOKEN_MEAN -> 1.0 / group / rows();
        case TOKEN_MEAN -> 1.0 / Arrays.stream(lengths).sum();
        case CONSTANT -> 1.0 / group / longest;
      };
    }

    AttentionPolicy.Input input(int layer) {
      AttentionPolicy.Input input = pass.attention(layer);
      return new AttentionPolicy.Input(
          input.q(), input.k(), input.offsetsQ(), input.offsetsK(), input.maxKeys(), visual);
    }
  }

  /** Uniform numbers in [0, 1). */
  interface Draws {
    double at(int layer, int row);
  }

  /** Advantages of a group by the operation. */
  static float[] advantages(Scope scope, float[] rewards, GroupAdvantage.Estimator estimator) {
    try (Scope inner = scope.context().scope()) {
      return GroupAdvantage.forward(
              inner,
              Tensor.of(inner, rewards),
              Tensor.of(inner, new int[] {0, rewards.length}),
              null,
              GroupAdvantage.Options.DEFAULT.withEstimator(estimator))
          .advantage()
          .toFloats();
    }
  }

  /**
   * The token policy gradient: clipped ratio times advantage.
   *
   * @param advantage null: no baseline
   */
  record TokenPolicy(String name, GroupAdvantage.Estimator advantage) implements Estimator {
    @Override
    public Signal of(Look look) {
      double a = look.advantage(advantage) * look.tokenWeight();
      return a == 0 ? null : policyLoss(look, a, 0);
    }
  }

  /** The KL term: {@code klCoef} times the sampled estimate of each token. */
  record Kl(String name) implements Estimator {
    @Override
    public Signal of(Look look) {
      if (look.refLogProb == null) {
        throw new IllegalArgumentException("kl: expected a reference policy, got none");
      }
      return policyLoss(look, 0, look.setting.klCoef() * look.tokenWeight());
    }
  }

  private static Signal policyLoss(Look look, double advantage, double klCoef) {
    Context context = look.scope.context();
    Setting setting = look.setting;
    PolicyLoss.Inputs inputs =
        PolicyLoss.Inputs.of(
            null,
            look.oldLogProb,
            Tensor.of(look.scope, new float[] {(float) advantage}),
            look.offsets);
    Tensor dLogits = Tensor.empty(look.scope, DType.F32, look.pass.logits().shape());
    PolicyLossFromLogits.forward(
        context,
        new PolicyLossFromLogits.Inputs(
            look.pass.logits(),
            look.targets,
            klCoef == 0 ? inputs : inputs.withRefLogProb(look.refLogProb)),
        PolicyLossFromLogits.Options.DEFAULT
            .withTemperature((float) setting.temperature())
            .withPolicy(
                PolicyLoss.Options.DEFAULT
                    // The sequence's sum; its weight is in the advantage.
                    .withAggregation(PolicyLoss.Aggregation.CONSTANT)
                    .withConstant(1)
                    .withClipLow((float) setting.clipLow())
                    .withClipHigh((float) setting.clipHigh())
                    .withKlEstimator(setting.klEstimator())
                    .withKlCoef((float) klCoef)
                    .withAdvantagePerSequence(true)),
        new PolicyLossFromLogits.Outputs(
            PolicyLossFromLogits.Values.of(Tensor.empty(look.scope, DType.F32, 1)), dLogits));
    return new Signal(dLogits, List.of(), List.of());
  }

  /**
   * A term of the attention policy p against that of the policy that sampled, mean over layers and
   * the response tokens of the group, times λ · A: RAL's divergence; {@code positions}, −log p of a
   * position drawn from the old policy (score function); and the expectation of that over the
   * positions, which is the gradient of KL(p_old‖p).
   */
  record AttentionTerm(String name, Kind kind) implements Estimator {
    enum Kind {
      DIVERGENCE,
      POSITIONS,
      EXPECTED_POSITIONS
    }

    @Override
    public Signal of(Look look) {
      int[] layers = look.attention.layers();
      double weight =
          look.setting.lambda()
              * look.advantage(look.attention.advantage())
              / layers.length
              / Arrays.stream(look.lengths).sum();
      if (weight == 0) {
        return null;
      }
      float[] weights = new float[look.rows()];
      Arrays.fill(weights, (float) weight);
      Tensor ofRows = Tensor.of(look.scope, weights);
      AttentionDivergence.Options options =
          AttentionDivergence.Options.DEFAULT
              .withPolicy(look.attention.options(look.setting.support()))
              .withKind(
                  kind == Kind.DIVERGENCE ? look.attention.divergence() : Divergence.FORWARD_KL)
              .withBeta(look.attention.beta());
      List<AttentionGradient> gradients = new ArrayList<>();
      List<Tensor> scores = new ArrayList<>();
      for (int i = 0; i < layers.length; i++) {
        AttentionPolicy.Input input = look.input(layers[i]);
        Tensor dq = Tensor.empty(look.scope, DType.F32, input.q().shape());
        Tensor dk = Tensor.empty(look.scope, DType.F32, input.k().shape());
        Tensor score = Tensor.empty(look.scope, DType.F32, input.q().shape(1), look.rows());
        AttentionDivergence.forwardBackward(
            look.scope.context(),
            input,
            reference(look, i),
            AttentionDivergence.Weights.of(ofRows),
            options,
            new AttentionDivergence.Outputs(null, null, null, null, dq, dk, score));
        gradients.add(new AttentionGradient(layers[i], dq, dk));
        scores.add(score);
      }
      return new Signal(null, gradients, scores);
    }

    private AttentionDivergence.Reference reference(Look look, int layer) {
      Tensor map = look.oldMaps.get(layer);
      if (kind != Kind.POSITIONS) {
        return new AttentionDivergence.Reference.Map(map);
      }
      int[] index = new int[look.rows()];
      float[] probabilities = map.toFloats();
      int keys = (int) map.shape(1);
      for (int t = 0; t < index.length; t++) {
        index[t] =
            draw(
                probabilities,
                t * keys,
                (t + 1) * keys,
                look.draws.at(look.attention.layers()[layer], t));
      }
      return new AttentionDivergence.Reference.Index(Tensor.of(look.scope, index));
    }

    /** The column whose share of the row holds u; −1 in a row of zeros. */
    static int draw(float[] p, int begin, int end, double u) {
      double total = 0;
      for (int i = begin; i < end; i++) {
        total += p[i];
      }
      double left = u * total;
      int last = -1;
      for (int i = begin; i < end; i++) {
        if (p[i] > 0) {
          last = i - begin;
          left -= p[i];
          if (left < 0) {
            break;
          }
        }
      }
      return last;
    }
  }

  /** Estimators by name. */
  static Estimator of(String name) {
    return switch (name) {
      case "none" -> new TokenPolicy(name, null);
      case "grpo" -> new TokenPolicy(name, GroupAdvantage.Estimator.GRPO);
      case "dr_grpo" -> new TokenPolicy(name, GroupAdvantage.Estimator.DR_GRPO);
      case "rloo" -> new TokenPolicy(name, GroupAdvantage.Estimator.RLOO);
      case "kl" -> new Kl(name);
      case "ral" -> new AttentionTerm(name, AttentionTerm.Kind.DIVERGENCE);
      case "positions" -> new AttentionTerm(name, AttentionTerm.Kind.POSITIONS);
      case "expected_positions" -> new AttentionTerm(name, AttentionTerm.Kind.EXPECTED_POSITIONS);
      default ->
          throw new IllegalArgumentException(
              "estimators: expected "
                  + String.join(", ", NAMES)
                  + ", or sums of them such as grpo+ral; got "
                  + name);
    };
  }

  /** Names that {@link #of} knows. */
  List<String> NAMES =
      List.of("none", "grpo", "dr_grpo", "rloo", "kl", "ral", "positions", "expected_positions");
}
