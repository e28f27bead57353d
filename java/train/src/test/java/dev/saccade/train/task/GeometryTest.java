package dev.saccade.train.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.train.task.IntersectionsTask.Circle;
import dev.saccade.train.task.IntersectionsTask.Line;
import dev.saccade.train.task.IntersectionsTask.Point;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class GeometryTest {
  private static List<Example> examples(String task, int count) {
    return Examples.training(4, 3, TaskMixture.parse(task)).get(0, count);
  }

  private static int number(int... digits) {
    return Integer.parseInt(Vocabulary.decode(digits).replace(" ", ""));
  }

  /** The centres of the pixels that are mostly ink, in units. */
  private static List<Point> ink(Image image) {
    List<Point> points = new ArrayList<>();
    double unit = (double) image.side() / Drawing.UNITS;
    for (int i = 0; i < image.canvas().length; i++) {
      if (image.canvas()[i] > 0.5) {
        points.add(new Point((i % image.side() + 0.5) / unit, (i / image.side() + 0.5) / unit));
      }
    }
    return points;
  }

  private static Point farthest(Point from, List<Point> points) {
    Point far = from;
    for (Point point : points) {
      far = point.distance(from) > far.distance(from) ? point : far;
    }
    return far;
  }

  @Test
  void theSegmentIsAsLongAsItsAnswer() {
    for (Example example : examples("length", 200)) {
      List<Point> ink = ink(example.image());
      Point end = farthest(ink.get(0), ink);
      Point other = farthest(end, ink);
      // The pen is 0.3 units wide, a pixel 0.1.
      assertThat(end.distance(other)).isCloseTo(number(example.truth()), within(0.45));
      if (Math.abs(end.x() - other.x()) < 1) {
        continue; // Which end is the left one is hard to see.
      }
      Point left = end.x() < other.x() ? end : other;
      assertThat((double) number(example.thoughts()[0])).isCloseTo(left.x() - 1.5, within(0.8));
      assertThat((double) number(example.thoughts()[1])).isCloseTo(left.y() - 1.5, within(0.8));
    }
  }

  /** By the cosine theorem: the legs are as long as each other, and meet in the corner. */
  @Test
  void theAngleIsThatBetweenTheLegs() {
    for (Example example : examples("angle", 200)) {
      int degrees = number(example.truth());
      assertThat(degrees).isBetween(15, 165);
      int[] thoughts = example.thoughts();
      int turned = number(thoughts[2], thoughts[3]) - number(thoughts[0], thoughts[1]);
      assertThat(AngleTask.STEP * Math.floorMod(turned, 24)).isEqualTo(degrees);
      List<Point> ink = ink(example.image());
      double widest = 0;
      for (int i = 0; i < ink.size(); i += 3) {
        widest = Math.max(widest, ink.get(i).distance(farthest(ink.get(i), ink)));
      }
      double chord = 2 * 4.5 * Math.sin(Math.toRadians(degrees / 2.0));
      assertThat(widest).isCloseTo(Math.max(4.5, chord), within(0.5));
    }
  }

  @ParameterizedTest
  @CsvSource({"length, 9", "angle, 11", "intersections, 5"})
  void allAnswersAreEquallyLikely(String task, int answers) {
    Map<String, Integer> counts = new TreeMap<>();
    int n = 2000;
    for (Example example : Examples.training(1, 5, TaskMixture.parse(task)).get(0, n)) {
      counts.merge(Vocabulary.decode(example.truth()), 1, Integer::sum);
    }
    assertThat(counts).hasSize(answers);
    // Five standard errors at most.
    assertThat(counts.values())
        .allSatisfy(
            count -> assertThat(count / (double) n).isCloseTo(1.0 / answers, within(0.045)));
  }

  /** Worked out by hand: a horizontal line at y = 6, a vertical one, circles around (6, 6). */
  @Test
  void shapesMeetWhereTheyDo() {
    Line level = new Line(0, 1, 6);
    Line upright = new Line(1, 0, 5);
    Circle circle = new Circle(new Point(6, 6), 3);
    Circle right = new Circle(new Point(9, 6), 2);
    Circle inner = new Circle(new Point(6, 6), 1);

    assertThat(IntersectionsTask.meetings(List.of(level, upright))).containsExactly(1, 0, 0);
    assertThat(IntersectionsTask.meetings(List.of(level, circle))).containsExactly(0, 2, 0);
    assertThat(IntersectionsTask.meetings(List.of(circle, right))).containsExactly(0, 0, 2);
    assertThat(IntersectionsTask.meetings(List.of(circle, inner))).containsExactly(0, 0, 0);
    assertThat(IntersectionsTask.meetings(List.of(level, upright, circle)))
        .containsExactly(1, 4, 0);
    assertThat(IntersectionsTask.meetings(List.of(level, new Line(1, 0, 20))))
        .as("outside")
        .containsExactly(0, 0, 0);
    assertThat(IntersectionsTask.meetings(List.of(level, new Line(1, 0, 11.5))))
        .as("near the border")
        .isNull();
    assertThat(IntersectionsTask.meetings(List.of(new Line(1, 0, 9.2), circle)))
        .as("nearly touching")
        .isNull();
    assertThat(
            IntersectionsTask.meetings(List.of(level, new Line(-Math.sin(0.1), Math.cos(0.1), 6))))
        .as("nearly parallel")
        .isNull();
  }

  @Test
  void theThoughtsCountWhatTheAnswerCounts() {
    for (Example example : examples("intersections", 200)) {
      int[] thoughts = example.thoughts();
      assertThat(number(thoughts[0]) + number(thoughts[1])).isBetween(2, 3);
      assertThat(number(thoughts[2]) + number(thoughts[3]) + number(thoughts[4]))
          .isEqualTo(number(example.truth()));
    }
  }

  /** A line of ink crosses the border of the image twice; circles lie inside. */
  @Test
  void theImageShowsTheShapes() {
    for (Example example : examples("intersections", 100)) {
      Image image = example.image();
      int side = image.side();
      int edges = 0;
      boolean before = image.canvas()[side] > 0.5;
      for (int i = 0; i < 4 * (side - 1); i++) {
        int along = i % (side - 1);
        int at =
            switch (i / (side - 1)) {
              case 0 -> along;
              case 1 -> along * side + side - 1;
              case 2 -> side * side - 1 - along;
              default -> (side - 1 - along) * side;
            };
        boolean now = image.canvas()[at] > 0.5;
        edges += now && !before ? 1 : 0;
        before = now;
      }
      // Two lines may leave through the same place.
      assertThat(edges).isBetween(0, 2 * number(example.thoughts()[0]));
      assertThat(edges > 0).isEqualTo(number(example.thoughts()[0]) > 0);
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 8})
  void imagesHaveTheSizeOfScenes(int cells) {
    TaskMixture all = TaskMixture.parse("geometry");
    for (Example example : Examples.training(cells, 1, all).get(0, 12)) {
      assertThat(example.image().side()).isEqualTo(cells * Digits.SIDE);
      assertThat(example.image().patches(14)).hasSize(784 * cells * cells);
      for (boolean thinking : new boolean[] {false, true}) {
        assertThat(new Reward(thinking, 3).score(example.reference(thinking), example.truth()))
            .isEqualTo(new Score(1, 1, 1));
      }
    }
    assertThat(Examples.training(cells, 2, all).heldOut(3))
        .usingRecursiveComparison()
        .isEqualTo(Examples.training(cells, 1, all).heldOut(3));
  }
}
