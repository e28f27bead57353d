/**
 * The task family <em>DigitScenes</em>: questions about a grid of handwritten digits whose answers
 * are known exactly, so that a response is rewarded by a rule and never by a model.
 *
 * <p>{@link dev.saccade.train.task.DigitScenes} turns an index into an {@link
 * dev.saccade.train.task.Example}, {@link dev.saccade.train.task.Vocabulary} names its tokens, and
 * {@link dev.saccade.train.task.Reward} scores a response. A new question is one implementation of
 * {@link dev.saccade.train.task.Task}.
 */
package dev.saccade.train.task;
