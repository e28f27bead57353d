package example;

import static dev.saccade.nd4j.Nd4jTensors.wrap;

import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.Context;
import dev.saccade.GroupAdvantage;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.SampleTokens;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import java.util.stream.IntStream;
import org.nd4j.autodiff.samediff.SDVariable;
import org.nd4j.autodiff.samediff.SameDiff;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.learning.GradientUpdater;
import org.nd4j.linalg.learning.config.Adam;

/**
 * A policy of SameDiff learns by rewards alone, with GRPO and Reinforced Attention Learning, to
 * answer with the first token of its prompt.
 */
public final class Embed {
  static final int PROMPTS = 12;
  static final int GROUP = 8;
  static final int B = PROMPTS * GROUP; // sequences, an answer of one token to each
  static final int T = 3;
  static final int VOCABULARY = 6;
  static final int WIDTH = 16;

  /** Of the attention term. */
  static final float LAMBDA = 0.5f;

  private Embed() {}

  /**
   * What was sampled, and what the updates compare with.
   *
   * @param x the policy's input
   * @param answers i32[B]
   * @param rewards f32[B], 1 where the answer is right
   * @param oldLogProb f32[B]
   * @param oldQ [B·T, WIDTH] of the policy that sampled
   * @param oldK likewise
   */
  record Rollout(
      INDArray x,
      INDArray answers,
      INDArray rewards,
      INDArray oldLogProb,
      INDArray oldQ,
      INDArray oldK) {}

  static Rollout sample(Context context, Policy policy, Random random, long step) {
    INDArray x = Nd4j.create(DataType.FLOAT, (long) B * T, VOCABULARY + T);
    int[] first = new int[B];
    for (int prompt = 0; prompt < PROMPTS; prompt++) {
      int[] tokens = random.ints(T, 0, VOCABULARY).toArray();
      for (int s = prompt * GROUP; s < (prompt + 1) * GROUP; s++) {
        first[s] = tokens[0];
        for (int i = 0; i < T; i++) {
          x.putScalar(s * T + i, tokens[i], 1);
          x.putScalar(s * T + i, VOCABULARY + i, 1);
        }
      }
    }
    Map<String, INDArray> out = policy.graph.output(Map.of("x", x), "logits", "q", "k");
    INDArray answers = Nd4j.create(DataType.INT32, B);
    INDArray oldLogProb = Nd4j.create(DataType.FLOAT, B);
    try (Scope scope = context.scope()) {
      Tensor logits = wrap(scope, out.get("logits")); // ND4J's memory, no copy
      Tensor tokens = wrap(scope, answers);
      SampleTokens.sample(context, logits, null, new SampleTokens.Options(1, 7, step), tokens);
      TokenLogProbs.forward(
          context,
          logits,
          tokens,
          TokenLogProbs.Options.DEFAULT,
          new TokenLogProbs.Outputs(wrap(scope, oldLogProb), null, null));
    }
    INDArray rewards = answers.eq(Nd4j.createFromArray(first)).castTo(DataType.FLOAT);
    return new Rollout(x, answers, rewards, oldLogProb, out.get("q"), out.get("k"));
  }

  // tag::surrogate[]
  /**
   * Adds to the graph what takes gradients of the logits, q and k: Σ y·dY, whose gradient is dY.
   */
  static void acceptGradients(Policy policy) {
    SameDiff graph = policy.graph;
    SDVariable dLogits = graph.placeHolder("dLogits", DataType.FLOAT, B, VOCABULARY);
    SDVariable dq = graph.placeHolder("dq", DataType.FLOAT, (long) B * T, WIDTH);
    SDVariable dk = graph.placeHolder("dk", DataType.FLOAT, (long) B * T, WIDTH);
    policy
        .logits
        .mul(dLogits)
        .sum()
        .add(policy.q.mul(dq).sum())
        .add("surrogate", policy.k.mul(dk).sum());
    graph.setLossVariables("surrogate");
  }

  // end::surrogate[]

  /** A loss and its gradient with respect to the policy's parameters. */
  record Gradient(float loss, Map<String, INDArray> ofParameters) {}

  // tag::update[]
  static Gradient gradient(Context context, Policy policy, Rollout rollout) {
    Map<String, INDArray> out = policy.graph.output(Map.of("x", rollout.x()), "logits", "q", "k");
    INDArray advantage = Nd4j.create(DataType.FLOAT, B);
    INDArray dLogits = Nd4j.create(DataType.FLOAT, B, VOCABULARY);
    INDArray dq = Nd4j.create(DataType.FLOAT, (long) B * T, WIDTH);
    INDArray dk = Nd4j.create(DataType.FLOAT, (long) B * T, WIDTH);
    INDArray losses = Nd4j.create(DataType.FLOAT, 2);
    try (Scope scope = context.scope()) {
      GroupAdvantage.forward(
          context,
          wrap(scope, rollout.rewards()),
          everySo(scope, PROMPTS, GROUP),
          null,
          GroupAdvantage.Options.DEFAULT,
          new GroupAdvantage.Outputs(wrap(scope, advantage), null, null, null));
      Tensor loss = wrap(scope, losses);
      PolicyLossFromLogits.forward(
          context,
          new PolicyLossFromLogits.Inputs(
              wrap(scope, out.get("logits")),
              wrap(scope, rollout.answers()),
              PolicyLoss.Inputs.of(
                  null,
                  wrap(scope, rollout.oldLogProb()),
                  wrap(scope, advantage),
                  everySo(scope, B, 1))),
          PolicyLossFromLogits.Options.DEFAULT,
          new PolicyLossFromLogits.Outputs(
              PolicyLossFromLogits.Values.of(loss.rows(0, 1)), wrap(scope, dLogits)));

      // The row that answers is the last of its sequence; the others get no weight.
      INDArray weight = Nd4j.create(DataType.FLOAT, B, T);
      weight.putColumn(T - 1, advantage.mul(LAMBDA / B));
      Tensor sequences = everySo(scope, B, T);
      AttentionDivergence.forwardBackward(
          context,
          new AttentionPolicy.Input(
              heads(scope, out.get("q")),
              heads(scope, out.get("k")),
              sequences,
              sequences,
              T,
              null),
          new AttentionDivergence.Reference.QueriesKeys(
              heads(scope, rollout.oldQ()), heads(scope, rollout.oldK())),
          AttentionDivergence.Weights.of(wrap(scope, weight).reshape((long) B * T)),
          AttentionDivergence.Options.DEFAULT,
          new AttentionDivergence.Outputs(
              loss.rows(1, 2), null, null, null, heads(scope, dq), heads(scope, dk), null));
    }
    return new Gradient(
        losses.sumNumber().floatValue(),
        policy.graph.calculateGradients(
            Map.of("x", rollout.x(), "dLogits", dLogits, "dq", dq, "dk", dk), Policy.PARAMETERS));
  }

  // end::update[]

  /** [B·T, WIDTH] as [B·T, heads, width of a head]: one head here. */
  private static Tensor heads(Scope scope, INDArray array) {
    return wrap(scope, array).reshape((long) B * T, 1, WIDTH);
  }

  /** i32[n + 1]: 0, size, … n·size. */
  private static Tensor everySo(Scope scope, int n, int size) {
    return Tensor.of(scope, IntStream.rangeClosed(0, n).map(i -> i * size).toArray());
  }

  /** Adam of ND4J. */
  static final class Optimizer {
    private final Map<String, GradientUpdater<?>> updaters = new HashMap<>();
    private int iteration;

    Optimizer(Policy policy, double learningRate) {
      for (String name : Policy.PARAMETERS) {
        long size = policy.graph.getVariable(name).getArr().length();
        updaters.put(
            name,
            new Adam(learningRate).instantiate(Nd4j.create(DataType.FLOAT, 1, 2 * size), true));
      }
    }

    void step(Policy policy, Gradient gradient) {
      for (String name : Policy.PARAMETERS) {
        INDArray update = gradient.ofParameters().get(name).reshape(1, -1).dup();
        updaters.get(name).applyUpdater(update, iteration, 0);
        INDArray parameter = policy.graph.getVariable(name).getArr();
        parameter.subi(update.reshape(parameter.shape()));
      }
      iteration++;
    }
  }

  static Policy newPolicy(long seed) {
    Nd4j.getRandom().setSeed(seed);
    Policy policy = new Policy(DataType.FLOAT, B, T, VOCABULARY, WIDTH);
    acceptGradients(policy);
    return policy;
  }

  /** Trains a new policy and returns its mean rewards, one a step. */
  static float[] run(int steps) {
    Policy policy = newPolicy(1);
    Optimizer optimizer = new Optimizer(policy, 0.01);
    Random random = new Random(1);
    float[] rewards = new float[steps];
    try (Context context = Context.cpu()) {
      for (int step = 0; step < steps; step++) {
        Rollout rollout = sample(context, policy, random, step);
        rewards[step] = rollout.rewards().meanNumber().floatValue();
        for (int update = 0; update < 2; update++) { // the first sees the old policy: RAL is 0
          optimizer.step(policy, gradient(context, policy, rollout));
        }
      }
    }
    return rewards;
  }

  public static void main(String[] args) {
    float[] rewards = run(31);
    for (int step = 0; step < rewards.length; step += 10) {
      System.out.printf("step %3d: mean reward %.3f%n", step, rewards[step]);
    }
  }
}
