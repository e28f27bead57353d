package dev.saccade.train;

import dev.saccade.AdamW;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.GradNorm;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.model.Parameter;
import dev.saccade.train.model.PolicyModel;
import java.util.ArrayList;
import java.util.List;

/**
 * AdamW with gradient clipping over the parameters of a model; its moments live as long as it is
 * open.
 */
final class Optimizer implements AutoCloseable {
  private static final float BETA1 = 0.9f;
  private static final float BETA2 = 0.95f;
  private static final float EPS = 1e-8f;

  private final Context context;
  private final Scope scope;
  private final TrainConfig.Optimizer config;
  private final PolicyModel model;
  private final List<AdamW.Parameter> state = new ArrayList<>();
  private final List<Tensor> gradients = new ArrayList<>();
  private final Tensor clip;
  private final Tensor skipped;
  private final Tensor rate;
  private final Tensor step;
  private float learningRate = Float.NaN;
  private long steps;

  Optimizer(PolicyModel model, TrainConfig.Optimizer config) {
    this.context = model.context();
    this.scope = context.scope();
    this.config = config;
    this.model = model;
    for (Parameter parameter : model.parameters()) {
      state.add(
          AdamW.Parameter.of(
              scope,
              parameter.value(),
              parameter.gradient(),
              parameter.decay() ? (float) config.weightDecay() : 0));
      gradients.add(parameter.gradient());
    }
    clip = Tensor.zeros(scope, DType.F32, 1);
    skipped = Tensor.zeros(scope, DType.I32, 1);
    rate = Tensor.zeros(scope, DType.F32, 1);
    step = Tensor.zeros(scope, DType.I64, 1);
  }

  /** An update of this optimizer. */
  Update update(double learningRate) {
    return new Update() {
      @Override
      public void prepare() {
        Optimizer.this.prepare((float) learningRate);
      }

      @Override
      public void step(Tensor norm) {
        Optimizer.this.step(norm);
      }
    };
  }

  private void prepare(float learningRate) {
    if (this.learningRate != learningRate) {
      this.learningRate = learningRate;
      rate.copyFrom(new float[] {learningRate});
    }
    step.copyFrom(new long[] {++steps});
  }

  /**
   * One step with the gradients as they are, which become 0. A gradient that is not finite skips
   * the step.
   *
   * @param norm f32[1], receives the norm of the gradients before clipping
   */
  private void step(Tensor norm) {
    GradNorm.forward(
        context,
        gradients,
        new GradNorm.Options((float) config.maxGradNorm()),
        new GradNorm.Outputs(norm, clip));
    AdamW.step(
        context,
        state,
        new AdamW.Options(0, BETA1, BETA2, EPS, 1),
        1,
        new AdamW.Scalars(rate, clip, step, skipped));
    model.clearGradients();
  }

  /** Optimizer steps taken. */
  long steps() {
    return steps;
  }

  /** Steps that were skipped because of gradients that were not finite. */
  int skipped() {
    return skipped.toInts()[0];
  }

  /** Takes up a stored count of steps; the moments are loaded through {@link #moments}. */
  void resume(long steps, int skipped) {
    this.steps = steps;
    this.skipped.copyFrom(new int[] {skipped});
  }

  /** First and second moment of parameter i. */
  Tensor[] moments(int i) {
    return new Tensor[] {state.get(i).m(), state.get(i).v()};
  }

  @Override
  public void close() {
    scope.close();
  }
}
