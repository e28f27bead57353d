package example;

import static dev.saccade.djl.DjlTensors.wrap;

import ai.djl.Model;
import ai.djl.engine.Engine;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Activation;
import ai.djl.nn.SequentialBlock;
import ai.djl.nn.core.Linear;
import ai.djl.training.DefaultTrainingConfig;
import ai.djl.training.GradientCollector;
import ai.djl.training.Trainer;
import ai.djl.training.loss.Loss;
import ai.djl.training.optimizer.Optimizer;
import ai.djl.training.tracker.Tracker;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.GroupAdvantage;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.SampleTokens;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.util.stream.IntStream;

/** A policy of DJL learns by GRPO to add two digits. */
public final class Embed {
  static final int PROMPTS = 32;
  static final int GROUP = 8;
  static final int ROWS = PROMPTS * GROUP; // one answer of one token in each
  static final int DIGITS = 3;
  static final int SUMS = 2 * DIGITS - 1;

  private Embed() {}

  /**
   * What was sampled, and what the updates compare with.
   *
   * @param input f32[ROWS, 2·DIGITS], two digits, one-hot
   * @param answers i32[ROWS]
   * @param rewards f32[ROWS], 1 where the answer is right
   * @param oldLogProb f32[ROWS]
   */
  record Rollout(NDArray input, NDArray answers, NDArray rewards, NDArray oldLogProb) {}

  static Rollout sample(Context context, NDManager manager, Trainer trainer, long step) {
    NDArray digits =
        manager
            .randomInteger(0, DIGITS, new Shape(PROMPTS, 1, 2), DataType.INT64)
            .repeat(1, GROUP)
            .reshape(ROWS, 2);
    NDArray input = digits.oneHot(DIGITS).reshape(ROWS, 2 * DIGITS);
    NDArray logits = trainer.evaluate(new NDList(input)).singletonOrThrow();
    NDArray answers = manager.zeros(new Shape(ROWS), DataType.INT32);
    NDArray oldLogProb = manager.zeros(new Shape(ROWS));
    try (Scope scope = context.scope()) {
      Tensor ourLogits = wrap(scope, logits); // DJL's memory, no copy
      Tensor ourAnswers = wrap(scope, answers);
      SampleTokens.sample(
          context, ourLogits, null, new SampleTokens.Options(1, 7, step), ourAnswers);
      TokenLogProbs.forward(
          context,
          ourLogits,
          ourAnswers,
          TokenLogProbs.Options.DEFAULT,
          new TokenLogProbs.Outputs(wrap(scope, oldLogProb), null, null));
    }
    NDArray sums = digits.sum(new int[] {1}).toType(DataType.INT32, false);
    return new Rollout(
        input, answers, answers.eq(sums).toType(DataType.FLOAT32, false), oldLogProb);
  }

  // tag::update[]
  /** Leaves the gradient of GRPO's loss with the parameters. Returns the loss. */
  static float gradient(Context context, NDManager manager, Trainer trainer, Rollout rollout) {
    try (GradientCollector collector = trainer.newGradientCollector();
        Scope scope = context.scope()) {
      NDArray logits = trainer.forward(new NDList(rollout.input())).singletonOrThrow();
      Tensor advantage =
          GroupAdvantage.forward(
                  scope,
                  wrap(scope, rollout.rewards()),
                  everySo(scope, PROMPTS, GROUP),
                  null,
                  GroupAdvantage.Options.DEFAULT)
              .advantage();
      NDArray dLogits = manager.zeros(logits.getShape());
      Tensor loss = Tensor.zeros(scope, DType.F32, 1);
      PolicyLossFromLogits.forward(
          context,
          new PolicyLossFromLogits.Inputs(
              wrap(scope, logits),
              wrap(scope, rollout.answers()),
              PolicyLoss.Inputs.of(
                  null, wrap(scope, rollout.oldLogProb()), advantage, everySo(scope, ROWS, 1))),
          PolicyLossFromLogits.Options.DEFAULT,
          new PolicyLossFromLogits.Outputs(
              PolicyLossFromLogits.Values.of(loss), wrap(scope, dLogits)));
      collector.backward(logits.mul(dLogits).sum()); // its gradient is dLogits
      return loss.item();
    }
  }

  // end::update[]

  /** i32[n + 1]: 0, size, … n·size. */
  private static Tensor everySo(Scope scope, int n, int size) {
    return Tensor.of(scope, IntStream.rangeClosed(0, n).map(i -> i * size).toArray());
  }

  static Trainer newTrainer(Model model) {
    model.setBlock(
        new SequentialBlock()
            .add(Linear.builder().setUnits(32).build())
            .add(Activation::relu)
            .add(Linear.builder().setUnits(SUMS).build()));
    Optimizer adam = Optimizer.adam().optLearningRateTracker(Tracker.fixed(0.01f)).build();
    Trainer trainer =
        model.newTrainer(
            new DefaultTrainingConfig(Loss.softmaxCrossEntropyLoss()).optOptimizer(adam));
    trainer.initialize(new Shape(ROWS, 2 * DIGITS));
    return trainer;
  }

  /** Trains a new policy and returns its mean rewards, one a step. */
  static float[] run(int steps) {
    Engine.getInstance().setRandomSeed(1);
    float[] rewards = new float[steps];
    try (Model model = Model.newInstance("policy");
        Trainer trainer = newTrainer(model);
        Context context = Context.cpu()) {
      for (int step = 0; step < steps; step++) {
        try (NDManager manager = trainer.getManager().newSubManager()) {
          Rollout rollout = sample(context, manager, trainer, step);
          rewards[step] = rollout.rewards().mean().getFloat();
          for (int update = 0; update < 2; update++) {
            gradient(context, manager, trainer, rollout);
            trainer.step();
          }
        }
      }
    }
    return rewards;
  }

  public static void main(String[] args) {
    float[] rewards = run(101);
    for (int step = 0; step < rewards.length; step += 25) {
      System.out.printf("step %3d: mean reward %.3f%n", step, rewards[step]);
    }
  }
}
