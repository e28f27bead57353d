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
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.PolicyModel.Activations;
import dev.saccade.train.model.PolicyModel.AttentionGradient;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;

/**
 * An estimator of a gradient from a group of responses to a prompt: a sum of contributions, one of
 * each response, which may depend on the rewards of the others.
 */
interface Estimator {
  /** As configurations name it. */
  String name();

  /** What the contributions are weighed with; null where they are 0 for all responses. */
  float[] weights(Group group);

  /**
   * What the responses contribute: nothing but operations.
   *
   * @param scope of what is computed
   * @param weights f32, as {@link #weights} gave them
   */
  Signal of(Scope scope, Look look, Tensor weights);

  /**
   * What is known of a group before a model has seen it.
   *
   * @param batch the responses
   * @param rewards of the responses
   * @param advantages of the responses, by estimator
   */
  record Group(
      Setting setting,
      AttentionChoice attention,
      Batch batch,
      float[] rewards,
      Function<GroupAdvantage.Estimator, float[]> advantages) {
    /** Advantages of the responses; null: no baseline, the rewards themselves. */
    float[] advantages(GroupAdvantage.Estimator estimator) {
      return estimator == null ? rewards : advantages.apply(estimator);
    }
  }

  /**
   * The gradient of the group's loss, where the model's backward pass takes it up.
   *
   * @param dLogits f32[response rows, vocabulary]
   * @param attention of queries and keys
   * @param scores f32[heads, response rows] for each of {@code attention}: Σ over keys of the
   *     squared gradient with respect to the scaled attention scores
   */
  record Signal(Tensor dLogits, List<AttentionGradient> attention, List<Tensor> scores) {}

  /**
   * A group, as an estimator sees it; the forward pass of the policy is open.
   *
   * @param setting of the measurement
   * @param attention which attention policies
   * @param batch the responses; of the same shape, where this is recorded
   * @param pass of the batch
   * @param targets i32[rows], its tokens
   * @param offsets i32[responses + 1], of the response rows
   * @param oldLogProb f32[rows], under the policy that sampled
   * @param refLogProb f32[rows], under the reference of the KL term; null where there is none
   * @param oldMaps attention policies of the policy that sampled, of the layers of {@code
   *     attention}: f32[rows, keys]; empty where nobody compares with them
   * @param positions that were drawn from those: i32[rows] of each layer; empty where nobody asks
   * @param visual i32[responses, 2]: the visual tokens
   * @param longest tokens of the longest possible response
   */
  record Look(
      Setting setting,
      AttentionChoice attention,
      Batch batch,
      Activations pass,
      Tensor targets,
      Tensor offsets,
      Tensor oldLogProb,
      Tensor refLogProb,
      List<Tensor> oldMaps,
      List<Tensor> positions,
      Tensor visual,
      int longest) {
    AttentionPolicy.Input input(int layer) {
      AttentionPolicy.Input input = pass.attention(layer);
      return new AttentionPolicy.Input(
          input.q(), input.k(), input.offsetsQ(), input.offsetsK(), input.maxKeys(), visual);
    }
  }

  /**
   * The token policy gradient: clipped ratio times advantage.
   *
   * @param advantage null: no baseline
   */
  record TokenPolicy(String name, GroupAdvantage.Estimator advantage) implements Estimator {
    @Override
    public float[] weights(Group group) {
      float[] advantages = group.advantages(advantage);
      return areZero(advantages) ? null : advantages;
    }

    @Override
    public Signal of(Scope scope, Look look, Tensor weights) {
      return policyLoss(scope, look, weights, 0);
    }
  }

  /** The KL term: {@code klCoef} times the sampled estimate of each token. */
  record Kl(String name) implements Estimator {
    @Override
    public float[] weights(Group group) {
      return group.setting.klCoef() == 0 ? null : new float[group.batch.sequences()];
    }

    @Override
    public Signal of(Scope scope, Look look, Tensor weights) {
      if (look.refLogProb == null) {
        throw new IllegalArgumentException("kl: expected a reference policy, got none");
      }
      return policyLoss(scope, look, weights, look.setting.klCoef());
    }
  }

  private static Signal policyLoss(Scope scope, Look look, Tensor advantages, double klCoef) {
    Context context = scope.context();
    Setting setting = look.setting;
    PolicyLoss.Inputs inputs =
        PolicyLoss.Inputs.of(null, look.oldLogProb, advantages, look.offsets);
    Tensor dLogits = Tensor.empty(scope, DType.F32, look.pass.logits().shape());
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
                    .withAggregation(setting.aggregation())
                    .withConstant((float) look.batch.sequences() * look.longest)
                    .withClipLow((float) setting.clipLow())
                    .withClipHigh((float) setting.clipHigh())
                    .withKlEstimator(setting.klEstimator())
                    .withKlCoef((float) klCoef)
                    .withAdvantagePerSequence(true)),
        new PolicyLossFromLogits.Outputs(
            PolicyLossFromLogits.Values.of(Tensor.empty(scope, DType.F32, 1)), dLogits));
    return new Signal(dLogits, List.of(), List.of());
  }

  private static boolean areZero(float[] values) {
    for (float value : values) {
      if (value != 0) {
        return false;
      }
    }
    return true;
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
    public float[] weights(Group group) {
      Batch batch = group.batch;
      double scale = group.setting.lambda() / group.attention.layers().length / batch.tokens();
      float[] weights = batch.perResponseRow(group.advantages(group.attention.advantage()));
      for (int t = 0; t < weights.length; t++) {
        weights[t] = (float) (scale * weights[t]);
      }
      return areZero(weights) ? null : weights;
    }

    @Override
    public Signal of(Scope scope, Look look, Tensor weights) {
      int[] layers = look.attention.layers();
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
        Tensor dq = Tensor.empty(scope, DType.F32, input.q().shape());
        Tensor dk = Tensor.empty(scope, DType.F32, input.k().shape());
        Tensor score = Tensor.empty(scope, DType.F32, input.q().shape(1), input.q().shape(0));
        AttentionDivergence.forwardBackward(
            scope.context(),
            input,
            kind == Kind.POSITIONS
                ? new AttentionDivergence.Reference.Index(look.positions.get(i))
                : new AttentionDivergence.Reference.Map(look.oldMaps.get(i)),
            AttentionDivergence.Weights.of(weights),
            options,
            new AttentionDivergence.Outputs(null, null, null, null, dq, dk, score));
        gradients.add(new AttentionGradient(layers[i], dq, dk));
        scores.add(score);
      }
      return new Signal(null, gradients, scores);
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
