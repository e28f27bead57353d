package dev.saccade.train.task;

import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.function.ToIntFunction;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Tasks that take turns: index i is a question of task i mod n.
 *
 * @param tasks at least one, of distinct names
 */
public record TaskMixture(List<Task> tasks) {

  /** The tasks that {@link #parse} knows by name. */
  public static final List<Task> KNOWN =
      List.of(
          new CountTask(),
          new ReadTask(),
          new CompareTask(),
          new SumTask(),
          new LengthTask(),
          new AngleTask(),
          new IntersectionsTask());

  /** Names of several tasks at once. */
  private static final Map<String, String> FAMILIES =
      Map.of("geometry", "length+angle+intersections");

  /**
   * Copies the list.
   *
   * @throws IllegalArgumentException if it is empty or a name occurs twice
   */
  public TaskMixture {
    tasks = List.copyOf(tasks);
    if (tasks.isEmpty()) {
      throw new IllegalArgumentException("a mixture needs at least one task");
    }
    var names = new HashSet<String>();
    for (Task task : tasks) {
      if (!names.add(task.name())) {
        throw new IllegalArgumentException("task \"" + task.name() + "\" occurs twice");
      }
    }
  }

  /**
   * Reads names joined by {@code '+'}, such as {@code "count"} or {@code "count+read"}; {@code
   * "geometry"} stands for {@code "length+angle+intersections"}.
   *
   * @throws IllegalArgumentException if a name is unknown or occurs twice; the message lists those
   *     known
   */
  public static TaskMixture parse(String text) {
    return new TaskMixture(
        names(text)
            .flatMap(name -> names(FAMILIES.getOrDefault(name, name)))
            .map(name -> known(name, text))
            .toList());
  }

  private static Stream<String> names(String text) {
    return Arrays.stream(text.split("\\+", -1)).map(String::strip);
  }

  /** The task that asks at an index; any value. */
  public Task at(long index) {
    return tasks.get((int) Math.floorMod(index, (long) tasks.size()));
  }

  /** The largest {@link Task#vocabulary()}. */
  public int vocabulary() {
    return most(Task::vocabulary);
  }

  /** The largest {@link Task#questionLength()}. */
  public int questionLength() {
    return most(Task::questionLength);
  }

  /** The largest {@link Task#answerLength(int)}. */
  public int answerLength(int cells) {
    return most(task -> task.answerLength(cells));
  }

  /** The most tokens of a reference response, the stop token included. */
  public int responseLength(int cells, boolean thinking) {
    return most(
        task -> (thinking ? task.thoughtsLength(cells) + 2 : 0) + task.answerLength(cells) + 2);
  }

  private int most(ToIntFunction<Task> what) {
    return tasks.stream().mapToInt(what).max().orElseThrow();
  }

  /** The names joined by {@code '+'}: what {@link #parse} reads. */
  @Override
  public String toString() {
    return names(tasks, "+");
  }

  private static Task known(String name, String text) {
    return KNOWN.stream()
        .filter(task -> task.name().equals(name))
        .findFirst()
        .orElseThrow(
            () ->
                new IllegalArgumentException(
                    "unknown task \"%s\" in \"%s\"; known tasks: %s, geometry, joined by +"
                        .formatted(name, text, names(KNOWN, ", "))));
  }

  private static String names(List<Task> tasks, String separator) {
    return tasks.stream().map(Task::name).collect(Collectors.joining(separator));
  }
}
