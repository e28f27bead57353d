package dev.saccade.train.task;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.random.RandomGenerator;

/**
 * "In how many points do these lines and circles meet?": {@code INTERSECTIONS}, answered by 0 …
 * {@value #MOST}, all equally likely. There are two or three shapes; lines go through the whole
 * image. Points lie well inside of the image and apart from each other, and shapes that nearly
 * touch are not drawn.
 *
 * <p>The thoughts are five digits: how many lines, how many circles, and in how many points lines
 * meet lines, lines meet circles, circles meet circles.
 */
public final class IntersectionsTask implements Task {
  /** The most points. */
  static final int MOST = 4;

  /** Units by which shapes pass each other or cross. */
  private static final double CLEAR = 0.7;

  /** Units between two points, and between a point and the border. */
  private static final double APART = 1.0;

  @Override
  public String name() {
    return "intersections";
  }

  @Override
  public int vocabulary() {
    return Vocabulary.INTERSECTIONS + 1;
  }

  @Override
  public int questionLength() {
    return 1;
  }

  @Override
  public int thoughtsLength(int cells) {
    return 5;
  }

  /** A point. */
  record Point(double x, double y) {
    double distance(Point other) {
      return Math.sqrt((x - other.x) * (x - other.x) + (y - other.y) * (y - other.y));
    }
  }

  /** A line or a circle. */
  sealed interface Shape {
    void draw(Drawing drawing);
  }

  /** The points with x·cos + y·sin = offset: (cos, sin) is the normal. */
  record Line(double cos, double sin, double offset) implements Shape {
    /** Signed, in units. */
    double distance(Point point) {
      return point.x * cos + point.y * sin - offset;
    }

    Point at(double along) {
      return new Point(offset * cos - along * sin, offset * sin + along * cos);
    }

    @Override
    public void draw(Drawing drawing) {
      Point from = at(-3 * Drawing.UNITS);
      Point to = at(3 * Drawing.UNITS);
      drawing.segment(from.x, from.y, to.x, to.y);
    }
  }

  record Circle(Point centre, double radius) implements Shape {
    @Override
    public void draw(Drawing drawing) {
      drawing.circle(centre.x, centre.y, radius);
    }
  }

  @Override
  public Example example(Setting setting, RandomGenerator random) {
    int wanted = random.nextInt(MOST + 1);
    while (true) {
      List<Shape> shapes = shapes(random);
      int[] met = meetings(shapes);
      if (met != null && Arrays.stream(met).sum() == wanted) {
        Drawing drawing = new Drawing(setting.cells() * Digits.SIDE);
        shapes.forEach(shape -> shape.draw(drawing));
        int lines = (int) shapes.stream().filter(Line.class::isInstance).count();
        int[] thoughts = {
          Vocabulary.digit(lines),
          Vocabulary.digit(shapes.size() - lines),
          Vocabulary.digit(met[0]),
          Vocabulary.digit(met[1]),
          Vocabulary.digit(met[2])
        };
        int[] question = {Vocabulary.INTERSECTIONS};
        return new Example(name(), drawing, question, thoughts, Vocabulary.number(wanted));
      }
    }
  }

  private static List<Shape> shapes(RandomGenerator random) {
    int count = 2 + random.nextInt(2);
    List<Shape> shapes = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      double x = 2 + random.nextDouble() * (Drawing.UNITS - 4);
      double y = 2 + random.nextDouble() * (Drawing.UNITS - 4);
      if (random.nextDouble() < 0.5) {
        double normal = random.nextDouble() * Math.PI;
        double cos = StrictMath.cos(normal);
        double sin = StrictMath.sin(normal);
        shapes.add(new Line(cos, sin, x * cos + y * sin));
      } else {
        // Whole circles.
        double room = Math.min(Math.min(x, y), Drawing.UNITS - Math.max(x, y)) - 0.3;
        double radius = 1.2 + random.nextDouble() * 3;
        shapes.add(new Circle(new Point(x, y), Math.min(radius, room)));
      }
    }
    return shapes;
  }

  /**
   * In how many points lines meet lines, lines circles, and circles circles; null where that is
   * hard to see.
   */
  static int[] meetings(List<Shape> shapes) {
    int[] met = new int[3];
    List<Point> all = new ArrayList<>();
    for (int i = 0; i < shapes.size(); i++) {
      for (int j = 0; j < i; j++) {
        List<Point> points = new ArrayList<>();
        if (!meet(shapes.get(i), shapes.get(j), points)) {
          return null;
        }
        for (Point point : points) {
          double inside =
              Math.min(Math.min(point.x, point.y), Drawing.UNITS - Math.max(point.x, point.y));
          boolean clear = all.stream().allMatch(other -> other.distance(point) >= APART);
          if (Math.abs(inside) < APART || !clear) {
            return null;
          }
          if (inside > 0) {
            all.add(point);
            int circles =
                (shapes.get(i) instanceof Circle ? 1 : 0)
                    + (shapes.get(j) instanceof Circle ? 1 : 0);
            met[circles]++;
          }
        }
      }
    }
    return met;
  }

  /** Adds the points of two shapes; false where they nearly touch or nearly coincide. */
  private static boolean meet(Shape a, Shape b, List<Point> points) {
    if (a instanceof Line one && b instanceof Line other) {
      double turn = other.sin * one.cos - other.cos * one.sin;
      double same = other.cos * one.cos + other.sin * one.sin;
      if (Math.abs(turn) < 0.3) {
        return false;
      }
      points.add(one.at((other.offset - one.offset * same) / turn));
      return true;
    }
    if (a instanceof Line line && b instanceof Circle circle) {
      return cross(line, circle, points);
    }
    if (a instanceof Circle circle && b instanceof Line line) {
      return cross(line, circle, points);
    }
    Circle one = (Circle) a;
    Circle other = (Circle) b;
    double d = one.centre.distance(other.centre);
    double sum = one.radius + other.radius;
    double difference = Math.abs(one.radius - other.radius);
    if (Math.abs(d - sum) < CLEAR || Math.abs(d - difference) < CLEAR) {
      return false;
    }
    if (d < sum && d > difference) {
      // The common chord.
      double along = (d * d + one.radius * one.radius - other.radius * other.radius) / (2 * d);
      double cos = (other.centre.x - one.centre.x) / d;
      double sin = (other.centre.y - one.centre.y) / d;
      Line chord = new Line(cos, sin, one.centre.x * cos + one.centre.y * sin + along);
      add(chord, one, points);
    }
    return true;
  }

  private static boolean cross(Line line, Circle circle, List<Point> points) {
    double distance = Math.abs(line.distance(circle.centre));
    if (Math.abs(distance - circle.radius) < CLEAR) {
      return false;
    }
    if (distance < circle.radius) {
      add(line, circle, points);
    }
    return true;
  }

  private static void add(Line line, Circle circle, List<Point> points) {
    double distance = line.distance(circle.centre);
    double half = Math.sqrt(circle.radius * circle.radius - distance * distance);
    double foot = circle.centre.y * line.cos - circle.centre.x * line.sin;
    points.add(line.at(foot - half));
    points.add(line.at(foot + half));
  }
}
