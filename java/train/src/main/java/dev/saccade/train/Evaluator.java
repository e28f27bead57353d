package dev.saccade.train;

import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.Prompt;
import dev.saccade.train.task.Example;
import dev.saccade.train.task.Proportion;
import dev.saccade.train.task.Reward;
import dev.saccade.train.task.Score;
import dev.saccade.train.task.Vocabulary;
import java.util.List;

/** Greedy accuracy of a policy on held-out scenes. */
public final class Evaluator {
  private static final int CHUNK = 256;

  private final TrainConfig config;
  private final List<Example> examples;
  private final Reward reward;

  /**
   * @param config names the task and the number of scenes
   */
  public Evaluator(TrainConfig config) {
    this(config, config.evaluationScenes());
  }

  /**
   * @param config names the task
   * @param scenes number of held-out scenes, the first of a fixed sequence
   */
  public Evaluator(TrainConfig config, int scenes) {
    examples = config.scenes().heldOut(scenes);
    reward = config.reward();
    this.config = config;
  }

  /**
   * How often the answer was right, and how often the response had the right form.
   *
   * @param accuracy right answers
   * @param format well-formed responses
   */
  public record Result(Proportion accuracy, Proportion format) {}

  /** Answers every held-out question with the likeliest tokens. */
  public Result evaluate(PolicyModel model) {
    long right = 0;
    long formed = 0;
    for (int from = 0; from < examples.size(); from += CHUNK) {
      List<Example> chunk = examples.subList(from, Math.min(examples.size(), from + CHUNK));
      int[][] responses = answer(model, config, chunk);
      for (int i = 0; i < responses.length; i++) {
        Score score = reward.score(responses[i], chunk.get(i).truth());
        right += score.accuracy() > 0.5 ? 1 : 0;
        formed += score.format() > 0.5 ? 1 : 0;
      }
    }
    return new Result(
        new Proportion(right, examples.size()), new Proportion(formed, examples.size()));
  }

  /** Likeliest response to each example. */
  static int[][] answer(PolicyModel model, TrainConfig config, List<Example> examples) {
    return model.sample(
        prompts(examples, config.patch()),
        1,
        new PolicyModel.Sampling(0, config.responseLength(), Vocabulary.END_ANSWER, 0, 0));
  }

  /** What the policy sees of examples, cut on all processors. */
  static List<Prompt> prompts(List<Example> examples, int patch) {
    return examples.parallelStream().map(example -> prompt(example, patch)).toList();
  }

  /**
   * What the policy sees of an example.
   *
   * @param patch side of a patch, in pixels
   */
  public static Prompt prompt(Example example, int patch) {
    float[] patches = example.image().patches(patch);
    return new Prompt(patches, patches.length / (patch * patch), example.question());
  }
}
