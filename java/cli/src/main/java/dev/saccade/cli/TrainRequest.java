package dev.saccade.cli;

import dev.saccade.train.task.TaskMixture;
import java.nio.file.Path;

/**
 * What {@code saccade train} was asked to do. A null is a value that was not given: the preset's,
 * or on resume the run's.
 *
 * @param algo the learning rule
 * @param task the questions to ask
 * @param preset name of the preset
 * @param steps optimisation steps of the reinforcement learning, or of SFT alone; 1 or more
 * @param sftSteps steps of the supervised warm-up before reinforcement learning; 0 or more
 * @param seed of everything random
 * @param out the run folder to make
 * @param resume the run folder to go on with
 * @param context where to compute
 * @param groupSize responses to each question; 2 or more
 * @param prompts questions of a rollout batch; 1 or more
 * @param temperature of sampling; above 0
 * @param minibatches optimizer steps per rollout batch; 1 or more
 * @param learningRate peak learning rate; above 0
 * @param lrWarmup steps over which the learning rate rises from 0; 0 or more
 * @param maxGradNorm norm that gradients are clipped to; above 0
 * @param klCoef coefficient of the KL term; 0 or more
 * @param lambda weight of the attention divergence in RAL; 0 or more
 */
record TrainRequest(
    Algorithm algo,
    TaskMixture task,
    String preset,
    Integer steps,
    Integer sftSteps,
    Long seed,
    Path out,
    Path resume,
    ContextOptions context,
    Integer groupSize,
    Integer prompts,
    Double temperature,
    Integer minibatches,
    Double learningRate,
    Integer lrWarmup,
    Double maxGradNorm,
    Double klCoef,
    Double lambda) {

  /** Learning rules. */
  enum Algorithm {
    /** Supervised fine-tuning on reference answers. */
    SFT,
    /** Group-relative policy optimisation. */
    GRPO,
    /** GRPO with reinforced attention. */
    RAL
  }
}
