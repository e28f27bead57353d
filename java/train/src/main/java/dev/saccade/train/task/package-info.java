/**
 * Questions about images whose answers are known exactly, so that a response is rewarded by a rule
 * and never by a model. There are two families: <em>DigitScenes</em>, grids of handwritten digits
 * ({@code count}, {@code read}, {@code compare}, {@code sum}), and <em>geometry</em>, drawings of
 * lines and circles ({@code length}, {@code angle}, {@code intersections}).
 *
 * <p>{@link dev.saccade.train.task.Examples} turns an index into an {@link
 * dev.saccade.train.task.Example}, {@link dev.saccade.train.task.Vocabulary} names its tokens, and
 * {@link dev.saccade.train.task.Reward} scores a response.
 *
 * <p><b>A new task</b> is one implementation of {@link dev.saccade.train.task.Task}: draw an image
 * (any {@link dev.saccade.train.task.Image}), ask, and give the right answer and the thoughts of a
 * reference response, all from the one source of chance. Tokens that it needs go behind those of
 * {@link dev.saccade.train.task.Vocabulary}; an answer is a number in decimal, or {@code first} or
 * {@code second}. An entry in {@link dev.saccade.train.task.TaskMixture#KNOWN} gives it its name in
 * configurations, mixtures and on the command line.
 */
package dev.saccade.train.task;
