package dev.saccade.cli;

import dev.saccade.train.task.TaskMixture;
import java.nio.file.Path;

/**
 * What {@code saccade eval} was asked to do. A null is a value that was not given.
 *
 * @param policy a run folder or a checkpoint file
 * @param task the questions to ask; null for those of the run
 * @param scenes how many held-out scenes; null for all
 * @param context where to compute
 */
record EvalRequest(Path policy, TaskMixture task, Integer scenes, ContextOptions context) {}
