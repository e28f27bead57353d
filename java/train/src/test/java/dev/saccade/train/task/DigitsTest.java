package dev.saccade.train.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.HashSet;
import java.util.Set;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class DigitsTest {

  @ParameterizedTest
  @EnumSource
  void splitHasAllLabelsAndPixelsInRange(Digits.Split split) {
    Digits digits = Digits.of(split);

    assertThat(digits.size()).isEqualTo(split == Digits.Split.TRAIN ? 8000 : 2000);
    assertThat(IntStream.range(0, digits.size()).map(digits::label).distinct().sorted())
        .containsExactly(0, 1, 2, 3, 4, 5, 6, 7, 8, 9);
    float[] pixels = digits.pixels(digits.size() - 1);
    assertThat(pixels).hasSize(28 * 28).contains(0f);
    for (float pixel : pixels) {
      assertThat(pixel).isBetween(0f, 1f);
    }
  }

  @Test
  void splitIsLoadedOnce() {
    assertThat(Digits.of(Digits.Split.TEST)).isSameAs(Digits.of(Digits.Split.TEST));
  }

  @Test
  void trainAndTestShareNoImage() {
    Set<FloatBuffer> train = images(Digits.of(Digits.Split.TRAIN));
    Set<FloatBuffer> test = images(Digits.of(Digits.Split.TEST));

    assertThat(train).hasSize(8000);
    assertThat(test).hasSize(2000).doesNotContainAnyElementsOf(train);
  }

  @Test
  void indexOutOfRangeIsRejected() {
    Digits digits = Digits.of(Digits.Split.TEST);

    assertThatThrownBy(() -> digits.label(2000)).isInstanceOf(IndexOutOfBoundsException.class);
    assertThatThrownBy(() -> digits.pixels(-1)).isInstanceOf(IndexOutOfBoundsException.class);
  }

  @Test
  void wellFormedFilesAreRead() throws IOException {
    Digits digits = read(images(0x803, 2, 28, 28, 2 * 784), labels(0x801, 2, 7, 9));

    assertThat(digits.size()).isEqualTo(2);
    assertThat(digits.label(1)).isEqualTo(9);
  }

  @Test
  void damagedFilesAreRejectedByName() {
    byte[] goodImages = images(0x803, 2, 28, 28, 2 * 784);
    byte[] goodLabels = labels(0x801, 2, 7, 9);

    assertRejected(
        images(0x801, 2, 28, 28, 1568),
        goodLabels,
        "x images: expected magic number 2051, got 2049");
    assertRejected(
        images(0x803, 2, 32, 28, 1568), goodLabels, "x images: expected image height 28, got 32");
    assertRejected(
        images(0x803, 2, 28, 20, 1568), goodLabels, "x images: expected image width 28, got 20");
    assertRejected(
        images(0x803, 2, 28, 28, 1500),
        goodLabels,
        "x images: expected 1568 bytes of data, got 1500");
    assertRejected(
        images(0x803, 2, 28, 28, 1569),
        goodLabels,
        "x images: data goes on after the expected 1568 bytes");
    assertRejected(images(0x803, -1, 28, 28, 0), goodLabels, "x images: unreasonable size");
    assertRejected(Arrays.copyOf(goodImages, 6), goodLabels, "x images: the header is cut short");
    assertRejected(
        goodImages, labels(0x801, 3, 1, 2, 3), "x labels: expected count (that of the images) 2");
    assertRejected(
        goodImages, labels(0x801, 2, 7, 10), "x labels: expected labels 0 to 9, got 10 at 1");
  }

  private static void assertRejected(byte[] images, byte[] labels, String message) {
    assertThatThrownBy(() -> read(images, labels))
        .isInstanceOf(IOException.class)
        .hasMessageStartingWith(message);
  }

  private static Digits read(byte[] images, byte[] labels) throws IOException {
    return Digits.read("x", new ByteArrayInputStream(images), new ByteArrayInputStream(labels));
  }

  private static byte[] images(int magic, int count, int height, int width, int bytes) {
    return ByteBuffer.allocate(16 + bytes)
        .putInt(magic)
        .putInt(count)
        .putInt(height)
        .putInt(width)
        .array();
  }

  private static byte[] labels(int magic, int count, int... labels) {
    ByteBuffer buffer = ByteBuffer.allocate(8 + labels.length).putInt(magic).putInt(count);
    for (int label : labels) {
      buffer.put((byte) label);
    }
    return buffer.array();
  }

  private static Set<FloatBuffer> images(Digits digits) {
    Set<FloatBuffer> images = new HashSet<>();
    for (int i = 0; i < digits.size(); i++) {
      images.add(FloatBuffer.wrap(digits.pixels(i)));
    }
    return images;
  }
}
