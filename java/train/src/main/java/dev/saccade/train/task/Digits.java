package dev.saccade.train.task;

import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ConcurrentHashMap;
import java.util.zip.GZIPInputStream;

/**
 * The handwritten digits of one {@link Split}: {@value #SIDE}×{@value #SIDE} grey images with
 * labels 0 … 9, a subset of MNIST that ships with this module. Immutable; loaded on first use and
 * kept.
 *
 * <p>Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits"; {@code
 * mnist/README.md} among the resources says which part.
 */
public final class Digits {

  /** Width and height of a digit, in pixels. */
  public static final int SIDE = 28;

  /** The two disjoint sets of images. */
  public enum Split {
    /** 8,000 digits to learn from. */
    TRAIN,
    /** 2,000 digits for held-out evaluation. */
    TEST
  }

  private static final int PIXELS = SIDE * SIDE;
  private static final int IMAGES_MAGIC = 0x803;
  private static final int LABELS_MAGIC = 0x801;
  private static final Map<Split, Digits> LOADED = new ConcurrentHashMap<>();

  private final byte[] pixels;
  private final byte[] labels;

  private Digits(byte[] pixels, byte[] labels) {
    this.pixels = pixels;
    this.labels = labels;
  }

  /**
   * The digits of a split.
   *
   * @throws UncheckedIOException if the files of this module are missing or damaged
   */
  public static Digits of(Split split) {
    return LOADED.computeIfAbsent(split, Digits::load);
  }

  /** The number of digits. */
  public int size() {
    return labels.length;
  }

  /**
   * The label, 0 … 9, of digit {@code index}.
   *
   * @throws IndexOutOfBoundsException unless 0 ≤ index &lt; {@link #size()}
   */
  public int label(int index) {
    return labels[Objects.checkIndex(index, size())];
  }

  /**
   * The pixels of digit {@code index}: row-major [{@value #SIDE}, {@value #SIDE}], 0 paper … 1 ink,
   * in a new array.
   *
   * @throws IndexOutOfBoundsException unless 0 ≤ index &lt; {@link #size()}
   */
  public float[] pixels(int index) {
    float[] image = new float[PIXELS];
    paint(index, image, 0, SIDE);
    return image;
  }

  /**
   * Writes digit {@code index} into a canvas of the given width, its first pixel at {@code offset}.
   */
  void paint(int index, float[] canvas, int offset, int width) {
    int source = Objects.checkIndex(index, size()) * PIXELS;
    for (int row = 0; row < SIDE; row++) {
      for (int column = 0; column < SIDE; column++) {
        canvas[offset + row * width + column] = (pixels[source++] & 0xff) / 255f;
      }
    }
  }

  private static Digits load(Split split) {
    String name = "mnist/" + split.name().toLowerCase(Locale.ROOT);
    try (InputStream images = open(name + "-images-idx3-ubyte.gz");
        InputStream labels = open(name + "-labels-idx1-ubyte.gz")) {
      return read(name, images, labels);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static InputStream open(String resource) throws IOException {
    InputStream stream = Digits.class.getResourceAsStream(resource);
    if (stream == null) {
      throw new IOException(
          resource + " is not on the class path beside " + Digits.class.getName());
    }
    return new GZIPInputStream(stream);
  }

  /** Reads a pair of uncompressed IDX streams; {@code name} is for messages. */
  static Digits read(String name, InputStream images, InputStream labels) throws IOException {
    String imagesName = name + " images";
    DataInputStream in = new DataInputStream(images);
    check(imagesName, "magic number", IMAGES_MAGIC, header(imagesName, in));
    int count = header(imagesName, in);
    check(imagesName, "image height", SIDE, header(imagesName, in));
    check(imagesName, "image width", SIDE, header(imagesName, in));
    byte[] pixels = body(imagesName, in, (long) count * PIXELS);

    String labelsName = name + " labels";
    in = new DataInputStream(labels);
    check(labelsName, "magic number", LABELS_MAGIC, header(labelsName, in));
    check(labelsName, "count (that of the images)", count, header(labelsName, in));
    byte[] classes = body(labelsName, in, count);
    for (int i = 0; i < count; i++) {
      if (classes[i] < 0 || classes[i] > 9) {
        throw new IOException(
            "%s: expected labels 0 to 9, got %d at %d".formatted(labelsName, classes[i] & 0xff, i));
      }
    }
    return new Digits(pixels, classes);
  }

  private static int header(String name, DataInputStream in) throws IOException {
    try {
      return in.readInt();
    } catch (EOFException e) {
      throw new EOFException(name + ": the header is cut short");
    }
  }

  private static byte[] body(String name, DataInputStream in, long size) throws IOException {
    if (size < 0 || size > Integer.MAX_VALUE - 8) {
      throw new IOException(name + ": unreasonable size of " + size + " bytes");
    }
    byte[] bytes = in.readNBytes((int) size);
    if (bytes.length < size) {
      throw new EOFException(
          "%s: expected %d bytes of data, got %d".formatted(name, size, bytes.length));
    }
    if (in.read() >= 0) {
      throw new IOException("%s: data goes on after the expected %d bytes".formatted(name, size));
    }
    return bytes;
  }

  private static void check(String name, String what, int expected, int actual) throws IOException {
    if (actual != expected) {
      throw new IOException("%s: expected %s %d, got %d".formatted(name, what, expected, actual));
    }
  }
}
