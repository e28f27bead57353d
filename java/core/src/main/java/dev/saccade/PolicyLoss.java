package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_policy_loss_args;
import java.util.Set;
import java.util.function.Consumer;

/**
 * The policy-gradient loss of packed sequences from the log-probabilities of their tokens, its
 * gradient with respect to them, and metrics, in one call.
 *
 * <p>A token's loss is that of the {@link Objective}, times its importance weight, plus klCoef
 * times the {@link KlEstimator}; the loss is their sum over the active rows (mask not 0), weighted
 * by the {@link Aggregation}. Token losses and gradients of other rows are 0, and what their inputs
 * hold does not matter. A sequence without active rows contributes 0; without any active row the
 * loss is 0. Log-ratios are clamped to ±20; a clamped ratio passes no gradient. NaN in a row
 * reaches the results of its own sequence, the loss and the metrics, and nothing else.
 */
public final class PolicyLoss {
  private PolicyLoss() {}

  /**
   * With ℓ = log_prob, ρ = exp(ℓ - old_log_prob), A the advantage and clip to [1 - clipLow, 1 +
   * clipHigh].
   */
  public enum Objective {
    /**
     * max(-ρA, -clip(ρ)·A), bounded further by {@link Options#dualClip} and {@link Options#delta}:
     * DeepSeekMath, arXiv 2402.03300; separate bounds: DAPO, arXiv 2503.14476.
     */
    PPO_CLIP,
    /**
     * {@link #PPO_CLIP} with the ratio of the sequence, exp of the mean of ℓ - old_log_prob over
     * its active rows, in the place of ρ: arXiv 2507.18071.
     */
    GSPO,
    /**
     * The value of {@link #GSPO}; the gradient of a token's loss goes to its own log-probability
     * only.
     */
    GSPO_TOKEN,
    /** -clip(ρ)·A·ℓ with the clipped ratio detached: MiniMax-M1, arXiv 2506.13585. */
    CISPO,
    /** -(4/τ)·σ(τ(ρ - 1))·A with τ = tauPos where A > 0, else tauNeg: arXiv 2511.20347. */
    SAPO,
    /** -A·ℓ. */
    REINFORCE;

    /** {@code saccade_objective} of the C ABI. */
    int code() {
      return ordinal();
    }
  }

  /**
   * Weight of an active row's loss, with n the number of active rows of its sequence and S that of
   * all sequences.
   */
  public enum Aggregation {
    /** 1 / Σ n: DAPO, arXiv 2503.14476. */
    TOKEN_MEAN,
    /** 1 / (n·S): DeepSeekMath, arXiv 2402.03300. */
    SEQ_MEAN_TOKEN_MEAN,
    /** 1 / S. */
    SEQ_MEAN_TOKEN_SUM,
    /** 1 / {@link Options#constant}: arXiv 2503.20783. */
    CONSTANT;

    /** {@code saccade_aggregation} of the C ABI. */
    int code() {
      return ordinal();
    }
  }

  /**
   * @param objective loss of a token
   * @param aggregation weights of the tokens
   * @param clipLow 0 to 1: ratios are clipped at 1 - clipLow
   * @param clipHigh finite, 0 or more: ratios are clipped at 1 + clipHigh
   * @param dualClip 0 (off), or above 1: where A < 0 the loss is at most -dualClip·A; PPO_CLIP,
   *     GSPO and GSPO_TOKEN only
   * @param delta 0 (off), or at least 1 + clipHigh: bounds the ratio of the unclipped term; the
   *     same objectives only
   * @param tauPos SAPO: above 0
   * @param tauNeg SAPO: above 0
   * @param constant CONSTANT: above 0
   * @param normalizer 0 (off), or above 0: takes the place of Σ n (TOKEN_MEAN), S (SEQ_MEAN_*) or
   *     constant, so that micro-batches add up to the loss of their batch
   * @param klCoef finite, 0 or more; 0 leaves the KL term out
   * @param klEstimator value and gradient of the KL term
   * @param advantagePerSequence advantages are given for sequences instead of rows
   * @param klImportanceCorrected the KL term is multiplied by the token's ratio ρ, which is
   *     differentiated too: {@link SampledKl.Options#importanceCorrected}
   */
  public record Options(
      Objective objective,
      Aggregation aggregation,
      float clipLow,
      float clipHigh,
      float dualClip,
      float delta,
      float tauPos,
      float tauNeg,
      float constant,
      float normalizer,
      float klCoef,
      KlEstimator klEstimator,
      boolean advantagePerSequence,
      boolean klImportanceCorrected) {
    /**
     * PPO_CLIP, TOKEN_MEAN, both clips 0.2, dualClip, delta and normalizer off, tauPos 1, tauNeg
     * 1.05, constant unset, klCoef 0, K3 without importance correction, one advantage a row.
     */
    public static final Options DEFAULT =
        new Options(
            Objective.PPO_CLIP,
            Aggregation.TOKEN_MEAN,
            0.2f,
            0.2f,
            0,
            0,
            1.0f,
            1.05f,
            0,
            0,
            0,
            KlEstimator.K3,
            false,
            false);

    public Options withObjective(Objective objective) {
      return with(draft -> draft.objective = objective);
    }

    public Options withAggregation(Aggregation aggregation) {
      return with(draft -> draft.aggregation = aggregation);
    }

    public Options withClipLow(float clipLow) {
      return with(draft -> draft.clipLow = clipLow);
    }

    public Options withClipHigh(float clipHigh) {
      return with(draft -> draft.clipHigh = clipHigh);
    }

    public Options withDualClip(float dualClip) {
      return with(draft -> draft.dualClip = dualClip);
    }

    public Options withDelta(float delta) {
      return with(draft -> draft.delta = delta);
    }

    public Options withTauPos(float tauPos) {
      return with(draft -> draft.tauPos = tauPos);
    }

    public Options withTauNeg(float tauNeg) {
      return with(draft -> draft.tauNeg = tauNeg);
    }

    public Options withConstant(float constant) {
      return with(draft -> draft.constant = constant);
    }

    public Options withNormalizer(float normalizer) {
      return with(draft -> draft.normalizer = normalizer);
    }

    public Options withKlCoef(float klCoef) {
      return with(draft -> draft.klCoef = klCoef);
    }

    public Options withKlEstimator(KlEstimator klEstimator) {
      return with(draft -> draft.klEstimator = klEstimator);
    }

    public Options withAdvantagePerSequence(boolean advantagePerSequence) {
      return with(draft -> draft.advantagePerSequence = advantagePerSequence);
    }

    public Options withKlImportanceCorrected(boolean klImportanceCorrected) {
      return with(draft -> draft.klImportanceCorrected = klImportanceCorrected);
    }

    private Options with(Consumer<Draft> change) {
      Draft draft = new Draft(this);
      change.accept(draft);
      return draft.options();
    }

    private static final class Draft {
      Objective objective;
      Aggregation aggregation;
      float clipLow;
      float clipHigh;
      float dualClip;
      float delta;
      float tauPos;
      float tauNeg;
      float constant;
      float normalizer;
      float klCoef;
      KlEstimator klEstimator;
      boolean advantagePerSequence;
      boolean klImportanceCorrected;

      Draft(Options options) {
        objective = options.objective;
        aggregation = options.aggregation;
        clipLow = options.clipLow;
        clipHigh = options.clipHigh;
        dualClip = options.dualClip;
        delta = options.delta;
        tauPos = options.tauPos;
        tauNeg = options.tauNeg;
        constant = options.constant;
        normalizer = options.normalizer;
        klCoef = options.klCoef;
        klEstimator = options.klEstimator;
        advantagePerSequence = options.advantagePerSequence;
        klImportanceCorrected = options.klImportanceCorrected;
      }

      Options options() {
        return new Options(
            objective,
            aggregation,
            clipLow,
            clipHigh,
            dualClip,
            delta,
            tauPos,
            tauNeg,
            constant,
            normalizer,
            klCoef,
            klEstimator,
            advantagePerSequence,
            klImportanceCorrected);
      }
    }
  }

  /**
   * What a call reads. Withers set what is optional.
   *
   * @param logProb f32[R], natural logarithms, of the policy
   * @param oldLogProb f32[R], of the policy that sampled the tokens
   * @param refLogProb f32[R], of the KL term's reference; may be null where there is no KL term
   * @param advantage f32[R], or f32[S] with {@link Options#advantagePerSequence}
   * @param mask u8[R], not 0 where a row is active; null where all are
   * @param isWeight f32[R], multiplies the objective of a row and is not differentiated (the
   *     truncated importance weight of the rollout engine); null for 1
   * @param offsets i32[S + 1], from 0, non-decreasing, ending at R: sequence s owns rows offsets[s]
   *     … offsets[s + 1] - 1
   * @param klCoef f32[1], takes the place of the option; or null
   * @param gradOutput f32[1], multiplies the gradient; null for 1
   */
  public record Inputs(
      Tensor logProb,
      Tensor oldLogProb,
      Tensor refLogProb,
      Tensor advantage,
      Tensor mask,
      Tensor isWeight,
      Tensor offsets,
      Tensor klCoef,
      Tensor gradOutput) {
    /** The inputs that every call needs; the others are null. */
    public static Inputs of(Tensor logProb, Tensor oldLogProb, Tensor advantage, Tensor offsets) {
      return new Inputs(logProb, oldLogProb, null, advantage, null, null, offsets, null, null);
    }

    public Inputs withRefLogProb(Tensor refLogProb) {
      return new Inputs(
          logProb, oldLogProb, refLogProb, advantage, mask, isWeight, offsets, klCoef, gradOutput);
    }

    public Inputs withMask(Tensor mask) {
      return new Inputs(
          logProb, oldLogProb, refLogProb, advantage, mask, isWeight, offsets, klCoef, gradOutput);
    }

    public Inputs withIsWeight(Tensor isWeight) {
      return new Inputs(
          logProb, oldLogProb, refLogProb, advantage, mask, isWeight, offsets, klCoef, gradOutput);
    }

    public Inputs withKlCoef(Tensor klCoef) {
      return new Inputs(
          logProb, oldLogProb, refLogProb, advantage, mask, isWeight, offsets, klCoef, gradOutput);
    }

    public Inputs withGradOutput(Tensor gradOutput) {
      return new Inputs(
          logProb, oldLogProb, refLogProb, advantage, mask, isWeight, offsets, klCoef, gradOutput);
    }
  }

  /**
   * @param loss f32[1]
   * @param tokenLoss f32[R], before the aggregation's weights, or null where it is not wanted
   * @param dLogProb f32[R], gradient of the loss times {@link Inputs#gradOutput}, or null where it
   *     is not wanted
   * @param metrics f32[{@link Metrics#COUNT}], to be read by {@link Metrics#of}, or null where they
   *     are not wanted
   * @param kl f32[R], the KL estimator's value without klCoef, or null where it is not wanted;
   *     needs {@link Inputs#refLogProb}
   */
  public record Outputs(Tensor loss, Tensor tokenLoss, Tensor dLogProb, Tensor metrics, Tensor kl) {
    /** Without the values of the KL estimator. */
    public Outputs(Tensor loss, Tensor tokenLoss, Tensor dLogProb, Tensor metrics) {
      this(loss, tokenLoss, dLogProb, metrics, null);
    }
  }

  /**
   * Statistics of the active rows; all 0 where there are none.
   *
   * @param clippedLow fraction of rows whose ratio is clipped from below: that get no gradient for
   *     it (PPO_CLIP, GSPO, GSPO_TOKEN; so only where A < 0), or whose ratio is replaced (CISPO)
   * @param clippedHigh the same from above, dualClip and delta included
   * @param ratio mean ratio, that of the sequence for GSPO and GSPO_TOKEN
   * @param kl mean value of the KL estimator in nats, without klCoef; 0 where klCoef is 0
   * @param tokenLoss mean token loss
   * @param active number of active rows
   * @param maxLogRatio largest |log_prob - old_log_prob|, unclamped
   */
  public record Metrics(
      float clippedLow,
      float clippedHigh,
      float ratio,
      float kl,
      float tokenLoss,
      float active,
      float maxLogRatio) {
    /** Elements of the metrics tensor. */
    public static final int COUNT = Saccade.SACCADE_POLICY_METRICS;

    /** Copies the metrics out of {@link Outputs#metrics}, waiting for them. */
    public static Metrics of(Tensor metrics) {
      return of(metrics.toFloats());
    }

    /** What was copied out of {@link Outputs#metrics}. */
    public static Metrics of(float[] m) {
      return new Metrics(
          m[Saccade.SACCADE_METRIC_CLIPPED_LOW],
          m[Saccade.SACCADE_METRIC_CLIPPED_HIGH],
          m[Saccade.SACCADE_METRIC_RATIO],
          m[Saccade.SACCADE_METRIC_KL],
          m[Saccade.SACCADE_METRIC_TOKEN_LOSS],
          m[Saccade.SACCADE_METRIC_ACTIVE],
          m[Saccade.SACCADE_METRIC_MAX_LOG_RATIO]);
    }
  }

  /**
   * Computes into tensors that the caller gives.
   *
   * @throws InvalidArgumentException if a type, shape, option or the offsets are wrong, or an
   *     output overlaps an input
   */
  public static void forward(Context context, Inputs inputs, Options options, Outputs outputs) {
    try (Call call = context.begin("policy_loss")) {
      long rows = call.check("log_prob", inputs.logProb(), Set.of(DType.F32), -1).shape(0);
      var args = args(call, rows, inputs, options, outputs);
      args.workspace(
          call.workspace(
              Saccade.saccade_policy_loss_workspace(context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_policy_loss(context.handle(), args));
    }
  }

  /** The struct of a call, all but its workspace. */
  static saccade_policy_loss_args args(
      Call call, long rows, Inputs inputs, Options options, Outputs outputs) {
    var args = call.args(saccade_policy_loss_args.class, saccade_policy_loss_args::new);
    long sequences = call.sequences("offsets", inputs.offsets(), Types.I32);
    args.offsets(inputs.offsets().address())
        .rows(rows)
        .sequences(sequences)
        .log_prob(call.optionalF32("log_prob", inputs.logProb(), rows))
        .old_log_prob(call.f32("old_log_prob", inputs.oldLogProb(), rows))
        .ref_log_prob(call.optionalF32("ref_log_prob", inputs.refLogProb(), rows))
        .advantage(
            call.f32(
                "advantage", inputs.advantage(), options.advantagePerSequence() ? sequences : rows))
        .mask(call.optionalU8("mask", inputs.mask(), rows))
        .is_weight(call.optionalF32("is_weight", inputs.isWeight(), rows))
        .kl_coef_scalar(call.optionalF32("kl_coef_scalar", inputs.klCoef(), 1))
        .grad_output(call.optionalF32("grad_output", inputs.gradOutput(), 1))
        .loss(call.f32("loss", outputs.loss(), 1))
        .token_loss(call.optionalF32("token_loss", outputs.tokenLoss(), rows))
        .d_log_prob(call.optionalF32("d_log_prob", outputs.dLogProb(), rows))
        .metrics(call.optionalF32("metrics", outputs.metrics(), Metrics.COUNT))
        .kl(call.optionalF32("kl", outputs.kl(), rows));
    return args.objective(options.objective().code())
        .aggregation(options.aggregation().code())
        .kl_estimator(options.klEstimator().code())
        .advantage_per_sequence(options.advantagePerSequence() ? 1 : 0)
        .clip_low(options.clipLow())
        .clip_high(options.clipHigh())
        .dual_clip(options.dualClip())
        .delta(options.delta())
        .tau_pos(options.tauPos())
        .tau_neg(options.tauNeg())
        .constant(options.constant())
        .normalizer(options.normalizer())
        .kl_coef(options.klCoef())
        .kl_importance_corrected(options.klImportanceCorrected() ? 1 : 0);
  }

  /** Computes into new tensors of {@code scope}: loss, token losses, gradient and metrics. */
  public static Outputs forward(Scope scope, Inputs inputs, Options options) {
    long rows = Call.shapeOf(scope, "policy_loss", "log_prob", inputs.logProb(), Types.F32, -1)[0];
    Outputs outputs =
        new Outputs(
            Tensor.empty(scope, DType.F32, 1),
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, Metrics.COUNT));
    forward(scope.context(), inputs, options, outputs);
    return outputs;
  }
}
