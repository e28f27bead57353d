package dev.saccade.train.task;

/** A square grey image. */
public interface Image {
  /** Width and height, in pixels. */
  int side();

  /** [side, side], row-major: 0 paper … 1 ink. Shared, not copied: treat it as read-only. */
  float[] canvas();

  /**
   * The image cut into square patches: [(side / patch)², patch²] flattened, patches in reading
   * order, the pixels of a patch row-major, in a new array. 56×56 pixels give 16 patches of 196
   * values at a side of 14.
   *
   * @param patch side of a patch, in pixels
   * @throws IllegalArgumentException unless {@code patch} is positive and divides {@link #side()}
   */
  default float[] patches(int patch) {
    int side = side();
    if (patch < 1 || side % patch != 0) {
      throw new IllegalArgumentException(
          "patch side must divide the canvas side %d, got %d".formatted(side, patch));
    }
    float[] canvas = canvas();
    float[] patches = new float[canvas.length];
    int target = 0;
    for (int top = 0; top < side; top += patch) {
      for (int left = 0; left < side; left += patch) {
        for (int row = top; row < top + patch; row++, target += patch) {
          System.arraycopy(canvas, row * side + left, patches, target, patch);
        }
      }
    }
    return patches;
  }
}
