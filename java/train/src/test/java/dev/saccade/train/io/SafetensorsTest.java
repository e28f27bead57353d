package dev.saccade.train.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.InvalidArgumentException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

class SafetensorsTest {
  @TempDir Path folder;
  private Context context;
  private Scope scope;

  @BeforeEach
  void open() {
    context = Context.builder().threads(1).build();
    scope = context.scope();
  }

  @AfterEach
  void close() {
    context.close();
  }

  private Path file() {
    return folder.resolve("t.safetensors");
  }

  private static Tensor tensor(Scope scope, DType dtype, long... shape) {
    Tensor tensor = Tensor.empty(scope, dtype, shape);
    int n = (int) tensor.size();
    switch (dtype) {
      case I32 -> {
        int[] values = new int[n];
        for (int i = 0; i < n; i++) {
          values[i] = Integer.MIN_VALUE + i;
        }
        tensor.copyFrom(values);
      }
      case I64 -> {
        long[] values = new long[n];
        for (int i = 0; i < n; i++) {
          values[i] = Long.MAX_VALUE - i;
        }
        tensor.copyFrom(values);
      }
      case U8 -> {
        byte[] values = new byte[n];
        for (int i = 0; i < n; i++) {
          values[i] = (byte) (250 + i);
        }
        tensor.copyFrom(values);
      }
      default -> {
        float[] values = new float[n];
        for (int i = 0; i < n; i++) {
          values[i] = i - 1.5f;
        }
        tensor.copyFrom(values);
      }
    }
    return tensor;
  }

  private static Object values(Tensor tensor) {
    return switch (tensor.dtype()) {
      case I32 -> tensor.toInts();
      case I64 -> tensor.toLongs();
      case U8 -> tensor.toBytes();
      default -> tensor.toDoubles();
    };
  }

  @ParameterizedTest
  @EnumSource
  void everyTypeComesBack(DType dtype) throws IOException {
    Tensor tensor = tensor(scope, dtype, 3, 5);

    Safetensors.builder().add("x", tensor).write(file());

    Safetensors read = Safetensors.open(file());
    assertThat(read.entry("x").dtype()).isEqualTo(dtype);
    assertThat(read.entry("x").shape()).containsExactly(3, 5);
    Tensor back = read.load(scope, "x");
    assertThat(back.dtype()).isEqualTo(dtype);
    assertThat(back.shape()).containsExactly(3, 5);
    assertThat(values(back)).isEqualTo(values(tensor));
  }

  @ParameterizedTest
  @EnumSource
  void anEmptyTensorComesBack(DType dtype) throws IOException {
    Safetensors.builder()
        .add("empty", Tensor.empty(scope, dtype, 2, 0, 3))
        .add("full", tensor(scope, dtype, 1))
        .write(file());

    Safetensors read = Safetensors.open(file());
    assertThat(read.load(scope, "empty").shape()).containsExactly(2, 0, 3);
    assertThat(read.load(scope, "full").size()).isEqualTo(1);
    assertThat(read.entry("empty").data().capacity()).isZero();
  }

  @Test
  void noTensorsAtAll() throws IOException {
    Safetensors.builder().metadata("why", "nothing to say").write(file());

    assertThat(Safetensors.open(file()).entries()).isEmpty();
    assertThat(Safetensors.open(file()).metadata()).isEqualTo(Map.of("why", "nothing to say"));
  }

  @Test
  void arraysComeBack() throws IOException {
    Safetensors.builder()
        .add("f32", new float[] {1.5f, Float.NaN, Float.NEGATIVE_INFINITY})
        .add("f64", new double[] {Math.PI, -0.0}, 2, 1)
        .add("i32", new int[] {-7, 7})
        .add("i64", new long[] {1L << 40}, new long[] {1})
        .add("u8", new byte[] {0, -1})
        .write(file());

    Safetensors read = Safetensors.open(file());
    assertThat(read.entry("f32").toDoubles())
        .containsExactly(1.5, Double.NaN, Double.NEGATIVE_INFINITY);
    assertThat(read.entry("f64").toDoubles()).containsExactly(Math.PI, -0.0);
    assertThat(read.entry("f64").shape()).containsExactly(2, 1);
    assertThat(read.entry("i32").toLongs()).containsExactly(-7, 7);
    assertThat(read.entry("i64").toLongs()).containsExactly(1L << 40);
    assertThat(read.entry("u8").toLongs()).containsExactly(0, 255);
    assertThat(read.entry("u8").toDoubles()).containsExactly(0, 255);
  }

  @Test
  void metadataAndNamesMayHoldAnything() throws IOException {
    String odd = "a \"quoted\"\n\\ κ 🙂";
    Safetensors.builder().metadata(odd, odd).add(odd, new int[] {1}).write(file());

    Safetensors read = Safetensors.open(file());
    assertThat(read.metadata()).isEqualTo(Map.of(odd, odd));
    assertThat(read.contains(odd)).isTrue();
  }

  @Test
  void stridesAreDroppedOnTheWayOutAndKeptOnTheWayIn() throws IOException {
    Tensor wide = tensor(scope, DType.F32, 3, 8);
    Safetensors.builder().add("middle", wide.columns(2, 5)).write(file());
    Safetensors read = Safetensors.open(file());
    assertThat(read.load(scope, "middle").toFloats()).isEqualTo(wide.columns(2, 5).toFloats());

    Tensor target = Tensor.zeros(scope, DType.F32, 3, 8);
    read.load("middle", target.columns(2, 5));
    assertThat(target.columns(2, 5).toFloats()).isEqualTo(wide.columns(2, 5).toFloats());
    assertThat(target.columns(0, 2).toFloats()).containsOnly(0f);
    assertThat(target.columns(5, 8).toFloats()).containsOnly(0f);
  }

  @Test
  void theBytesFollowFromTheContentAndDataAreAligned() throws IOException {
    Safetensors.builder()
        .metadata("b", "2")
        .metadata("a", "1")
        .add("z", new byte[] {1, 2, 3})
        .add("y", new double[] {1})
        .add("x", new float[] {1})
        .write(file());
    Path other = folder.resolve("other.safetensors");
    Safetensors.builder()
        .add("x", new float[] {1})
        .add("y", new double[] {1})
        .add("z", new byte[] {1, 2, 3})
        .metadata("a", "1")
        .metadata("b", "2")
        .write(other);

    byte[] bytes = Files.readAllBytes(file());
    assertThat(bytes).isEqualTo(Files.readAllBytes(other));
    long header = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).getLong();
    assertThat(header % 8).isZero();
    assertThat(new String(bytes, 8, (int) header, StandardCharsets.UTF_8).strip())
        .isEqualTo(
            "{\"__metadata__\":{\"a\":\"1\",\"b\":\"2\"},"
                + "\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]},"
                + "\"y\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]},"
                + "\"z\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[12,15]}}");
  }

  @Test
  void aFileIsReplacedAsAWhole() throws IOException {
    Safetensors.builder().add("x", new int[] {1}).write(file());
    Safetensors old = Safetensors.open(file());

    Safetensors.builder().add("x", new int[] {2, 3}).write(file());

    assertThat(old.entry("x").toLongs()).containsExactly(1);
    assertThat(Safetensors.open(file()).entry("x").toLongs()).containsExactly(2, 3);
    try (Stream<Path> files = Files.list(folder)) {
      assertThat(files).containsExactly(file());
    }
  }

  @Test
  void aFolderThatIsNotThereIsAnError() {
    assertThatExceptionOfType(NoSuchFileException.class)
        .isThrownBy(() -> Safetensors.builder().build().write(folder.resolve("no/t.safetensors")));
  }

  @Test
  void dataOffTheirAlignmentAreRead() throws IOException {
    ByteBuffer data = ByteBuffer.allocate(13).order(ByteOrder.LITTLE_ENDIAN);
    data.put((byte) 9).putDouble(2.5).putFloat(-1f);
    write(
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            + "\"b\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[1,9]},"
            + "\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9,13]}}",
        data.array());

    Safetensors read = Safetensors.open(file());
    assertThat(read.load(scope, "b").toDoubles()).containsExactly(2.5);
    assertThat(read.load(scope, "c").toFloats()).containsExactly(-1f);
    assertThat(read.entry("b").shape()).isEmpty();
  }

  @Test
  void misuseOfTheBuilderIsAnError() {
    var builder = Safetensors.builder().add("x", new int[] {1});
    assertThatIllegalArgumentException()
        .isThrownBy(() -> builder.add("x", new int[] {1}))
        .withMessage("tensor \"x\" was added twice");
    assertThatIllegalArgumentException().isThrownBy(() -> builder.add("__metadata__", new int[1]));
    assertThatIllegalArgumentException()
        .isThrownBy(() -> builder.add("y", new float[6], 2, 4))
        .withMessage("6 values do not fill the shape [2, 4]");
    assertThatIllegalArgumentException()
        .isThrownBy(() -> builder.build().entry("y"))
        .withMessageContaining("no tensor \"y\"");
  }

  @Test
  void loadingIntoAnotherTypeIsAnError() {
    Safetensors tensors = Safetensors.builder().add("x", new float[] {1}).build();
    assertThatExceptionOfType(InvalidArgumentException.class)
        .isThrownBy(() -> tensors.load("x", Tensor.empty(scope, DType.F64, 1)))
        .withMessageContaining("f64[1]");
  }

  // ---------------------------------------------------------------------------- malformed files

  private void write(String header, byte[] data) throws IOException {
    byte[] json = header.getBytes(StandardCharsets.UTF_8);
    ByteBuffer bytes = ByteBuffer.allocate(8 + json.length + data.length);
    bytes.order(ByteOrder.LITTLE_ENDIAN).putLong(json.length).put(json).put(data);
    Files.write(file(), bytes.array());
  }

  private static String f32(String name, String shape, int begin, int end) {
    return "\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%d,%d]}"
        .formatted(name, shape, begin, end);
  }

  static Stream<Arguments> malformedHeaders() {
    return Stream.of(
        Arguments.of("{" + f32("a", "[2]", 0, 8), "header: Unexpected end-of-input"),
        Arguments.of("[]", "header: expected a JSON object, got []"),
        Arguments.of("{} {}", "header: Trailing token"),
        Arguments.of("", "header: "),
        Arguments.of(
            "{" + f32("a", "[2]", 0, 8) + "," + f32("a", "[2]", 8, 16) + "}", "header: Duplicate"),
        Arguments.of("{\"a\":3}", "tensor \"a\": expected an object, got 3"),
        Arguments.of(
            "{\"a\":{\"dtype\":\"F7\",\"shape\":[],\"data_offsets\":[0,4]}}",
            "tensor \"a\": unknown dtype \"F7\"; known: F32, BF16, F16, F64, I32, I64, U8"),
        Arguments.of(
            "{\"a\":{\"shape\":[],\"data_offsets\":[0,4]}}", "tensor \"a\": unknown dtype nothing"),
        Arguments.of(
            "{" + f32("a", "[-2]", 0, 8) + "}",
            "tensor \"a\": shape: expected an array of integers, 0 or more, got [-2]"),
        Arguments.of("{" + f32("a", "[1.5]", 0, 8) + "}", "tensor \"a\": shape: expected"),
        Arguments.of("{" + f32("a", "2", 0, 8) + "}", "tensor \"a\": shape: expected"),
        Arguments.of(
            "{" + f32("a", "[2]", 8, 0) + "}",
            "tensor \"a\": data_offsets: expected [begin, end], got [8, 0]"),
        Arguments.of(
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", "tensor \"a\": data_offsets: expected"),
        Arguments.of(
            "{" + f32("a", "[3]", 0, 16) + "}",
            "tensor \"a\": f32[3] takes 12 bytes, data_offsets [0, 16] hold 16"),
        Arguments.of(
            "{" + f32("a", "[4294967296, 4294967296]", 0, 16) + "}",
            "tensor \"a\": shape [4294967296, 4294967296] overflows"),
        Arguments.of(
            "{" + f32("a", "[8]", 0, 32) + "}",
            "truncated: tensor \"a\" ends at byte 32 of the data, 16 are there"),
        Arguments.of(
            "{" + f32("a", "[3]", 0, 12) + "," + f32("b", "[2]", 8, 16) + "}",
            "tensors \"a\" and \"b\" overlap at byte 8 of the data"),
        Arguments.of(
            "{" + f32("a", "[1]", 0, 4) + "," + f32("b", "[2]", 8, 16) + "}",
            "4 bytes before tensor \"b\" belong to no tensor"),
        Arguments.of("{" + f32("a", "[2]", 0, 8) + "}", "8 bytes after the last tensor"),
        Arguments.of("{\"__metadata__\":[]}", "__metadata__: expected an object of strings, got"),
        Arguments.of("{\"__metadata__\":{\"a\":1}}", "__metadata__.a: expected a string, got 1"));
  }

  @ParameterizedTest
  @MethodSource("malformedHeaders")
  void aMalformedHeaderIsOneClearError(String header, String problem) throws IOException {
    write(header, new byte[16]);

    assertThatExceptionOfType(SafetensorsException.class)
        .isThrownBy(() -> Safetensors.open(file()))
        .withMessageStartingWith(file() + ": not a safetensors file: " + problem)
        .satisfies(e -> assertThat(e.getMessage()).doesNotContain("\n"));
  }

  @Test
  void aTruncatedFileIsOneClearError() throws IOException {
    Files.write(file(), new byte[5]);
    assertMalformed("truncated: 5 bytes, the length of the header alone takes 8");

    Files.write(file(), new byte[] {10, 0, 0, 0, 0, 0, 0, 0, '{', '}'});
    assertMalformed("truncated: the header takes 10 bytes, 2 are there");

    Files.write(file(), "#!/bin/sh\necho a text that is not one\n".getBytes());
    assertMalformed("header too long: ");

    Files.write(file(), new byte[] {-1, -1, -1, -1, -1, -1, -1, -1, '{', '}'});
    assertMalformed("header too long: 18446744073709551615 bytes, at most 100000000 are allowed");
  }

  private void assertMalformed(String problem) {
    assertThatExceptionOfType(SafetensorsException.class)
        .isThrownBy(() -> Safetensors.open(file()))
        .withMessageStartingWith(file() + ": not a safetensors file: " + problem);
  }

  @Test
  void aMissingFileIsNotAMalformedOne() {
    assertThatExceptionOfType(NoSuchFileException.class).isThrownBy(() -> Safetensors.open(file()));
  }
}
