package dev.saccade.train.task;

/**
 * An image of lines and circles, drawn with a round pen and soft edges. Coordinates are in units,
 * of which an image has {@value #UNITS} a side; x goes right, y goes down.
 */
final class Drawing implements Image {
  /** Units of a side. */
  static final int UNITS = 12;

  /** Half the width of a line, in units. */
  private static final double PEN = 0.16;

  private final int side;
  private final double scale;
  private final float[] canvas;

  /** An empty image of {@code side} pixels. */
  Drawing(int side) {
    this.side = side;
    scale = (double) side / UNITS;
    canvas = new float[side * side];
  }

  @Override
  public int side() {
    return side;
  }

  @Override
  public float[] canvas() {
    return canvas;
  }

  /** How far a point is from what is drawn, in units. */
  private interface Shape {
    double distance(double x, double y);
  }

  /** Draws the segment between two points, of which parts may lie outside. */
  Drawing segment(double x0, double y0, double x1, double y1) {
    double dx = x1 - x0;
    double dy = y1 - y0;
    double square = dx * dx + dy * dy;
    return draw(
        (x, y) -> {
          double along = ((x - x0) * dx + (y - y0) * dy) / square;
          double t = Math.max(0, Math.min(1, along));
          return norm(x - x0 - t * dx, y - y0 - t * dy);
        });
  }

  /** Draws a circle, of which parts may lie outside. */
  Drawing circle(double x0, double y0, double radius) {
    return draw((x, y) -> Math.abs(norm(x - x0, y - y0) - radius));
  }

  private static double norm(double x, double y) {
    return Math.sqrt(x * x + y * y);
  }

  /** Full ink on the line, none from half a pixel beyond its edge on. */
  private Drawing draw(Shape shape) {
    double pen = Math.max(0.5, PEN * scale);
    for (int row = 0; row < side; row++) {
      for (int column = 0; column < side; column++) {
        double pixels = scale * shape.distance((column + 0.5) / scale, (row + 0.5) / scale);
        float ink = (float) Math.max(0, Math.min(1, pen + 0.5 - pixels));
        int at = row * side + column;
        canvas[at] = Math.max(canvas[at], ink);
      }
    }
    return this;
  }
}
