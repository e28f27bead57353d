package dev.saccade.train.task;

/**
 * What a response earned.
 *
 * @param accuracy 1 if the answer is right, otherwise 0
 * @param format 1 if the format is exact, otherwise 0
 * @param total the weighted sum of both: the reward
 */
public record Score(double accuracy, double format, double total) {}
