package dev.saccade.train.io;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.json.JsonMapper;
import dev.saccade.DType;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.channels.FileChannel.MapMode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Reads and checks a file; every check names the file and the tensor. */
final class SafetensorsReader {
  /** The header's key for the text metadata. */
  static final String METADATA = "__metadata__";

  /** The longest header that the format allows. */
  static final long MAX_HEADER = 100_000_000;

  private static final int LENGTH_BYTES = 8;

  private static final ObjectReader JSON =
      JsonMapper.builder()
          .enable(JsonParser.Feature.STRICT_DUPLICATE_DETECTION)
          .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
          .build()
          .readerFor(JsonNode.class);

  private final Path file;
  private final FileChannel channel;

  SafetensorsReader(Path file, FileChannel channel) {
    this.file = file;
    this.channel = channel;
  }

  private record Place(String name, DType dtype, long[] shape, long begin, long end) {}

  Safetensors read() throws IOException {
    long size = channel.size();
    if (size < LENGTH_BYTES) {
      throw malformed(
          "truncated: %d bytes, the length of the header alone takes %d", size, LENGTH_BYTES);
    }
    long header = readFully(0, LENGTH_BYTES).getLong();
    if (header < 0 || header > MAX_HEADER) {
      throw malformed(
          "header too long: %s bytes, at most %d are allowed",
          Long.toUnsignedString(header), MAX_HEADER);
    }
    if (header > size - LENGTH_BYTES) {
      throw malformed(
          "truncated: the header takes %d bytes, %d are there", header, size - LENGTH_BYTES);
    }
    JsonNode root = parse(readFully(LENGTH_BYTES, (int) header));
    Map<String, String> metadata = new TreeMap<>();
    List<Place> places = new ArrayList<>();
    for (Map.Entry<String, JsonNode> property : root.properties()) {
      if (property.getKey().equals(METADATA)) {
        readMetadata(property.getValue(), metadata);
      } else {
        places.add(readPlace(property.getKey(), property.getValue()));
      }
    }
    long start = LENGTH_BYTES + header;
    checkCover(places, size - start);
    Map<String, Safetensors.Entry> entries = new TreeMap<>();
    for (Place place : places) {
      entries.put(
          place.name,
          new Safetensors.Entry(place.dtype, place.shape, map(start + place.begin, place)));
    }
    return new Safetensors(file, entries, metadata);
  }

  private ByteBuffer readFully(long position, int length) throws IOException {
    ByteBuffer buffer = ByteBuffer.allocate(length).order(ByteOrder.LITTLE_ENDIAN);
    while (buffer.hasRemaining()) {
      if (channel.read(buffer, position + buffer.position()) < 0) {
        throw malformed("truncated while it was read");
      }
    }
    return buffer.flip();
  }

  private ByteBuffer map(long position, Place place) throws IOException {
    long length = place.end - place.begin;
    ByteBuffer buffer =
        length == 0
            ? ByteBuffer.allocateDirect(0)
            : channel.map(MapMode.READ_ONLY, position, length);
    return buffer.order(ByteOrder.LITTLE_ENDIAN);
  }

  private JsonNode parse(ByteBuffer header) throws SafetensorsException {
    JsonNode root;
    try {
      root = JSON.readTree(header.array());
    } catch (JsonProcessingException e) {
      throw malformed("header: %s", e.getOriginalMessage());
    } catch (IOException e) {
      throw malformed("header: %s", e.getMessage());
    }
    if (!root.isObject()) {
      throw malformed("header: expected a JSON object, got %s", describe(root));
    }
    return root;
  }

  private void readMetadata(JsonNode node, Map<String, String> metadata)
      throws SafetensorsException {
    if (!node.isObject()) {
      throw malformed("%s: expected an object of strings, got %s", METADATA, describe(node));
    }
    for (Map.Entry<String, JsonNode> line : node.properties()) {
      if (!line.getValue().isTextual()) {
        throw malformed(
            "%s.%s: expected a string, got %s", METADATA, line.getKey(), describe(line.getValue()));
      }
      metadata.put(line.getKey(), line.getValue().textValue());
    }
  }

  private Place readPlace(String name, JsonNode node) throws SafetensorsException {
    if (!node.isObject()) {
      throw malformed("tensor \"%s\": expected an object, got %s", name, describe(node));
    }
    DType dtype = readDtype(name, node.path("dtype"));
    long[] shape = readLongs(name, "shape", node.path("shape"));
    long[] offsets = readLongs(name, "data_offsets", node.path("data_offsets"));
    if (offsets.length != 2 || offsets[0] > offsets[1]) {
      throw malformed(
          "tensor \"%s\": data_offsets: expected [begin, end], got %s",
          name, Arrays.toString(offsets));
    }
    long bytes = byteSize(name, dtype, shape);
    if (bytes != offsets[1] - offsets[0]) {
      throw malformed(
          "tensor \"%s\": %s%s takes %d bytes, data_offsets %s hold %d",
          name,
          dtype,
          Arrays.toString(shape),
          bytes,
          Arrays.toString(offsets),
          offsets[1] - offsets[0]);
    }
    if (bytes > Integer.MAX_VALUE) {
      throw malformed("tensor \"%s\": %d bytes are more than one entry holds (2 GiB)", name, bytes);
    }
    return new Place(name, dtype, shape, offsets[0], offsets[1]);
  }

  private DType readDtype(String name, JsonNode node) throws SafetensorsException {
    for (DType dtype : DType.values()) {
      if (dtype.safetensorsName().equals(node.asText())) {
        return dtype;
      }
    }
    throw malformed(
        "tensor \"%s\": unknown dtype %s; known: %s",
        name,
        describe(node),
        String.join(", ", Arrays.stream(DType.values()).map(DType::safetensorsName).toList()));
  }

  private long[] readLongs(String name, String key, JsonNode node) throws SafetensorsException {
    boolean fits = node.isArray();
    for (JsonNode element : node) {
      fits &= element.canConvertToExactIntegral() && element.canConvertToLong();
      fits &= element.asLong() >= 0;
    }
    if (!fits) {
      throw malformed(
          "tensor \"%s\": %s: expected an array of integers, 0 or more, got %s",
          name, key, describe(node));
    }
    long[] values = new long[node.size()];
    for (int i = 0; i < values.length; i++) {
      values[i] = node.get(i).asLong();
    }
    return values;
  }

  private long byteSize(String name, DType dtype, long[] shape) throws SafetensorsException {
    if (Arrays.stream(shape).anyMatch(dimension -> dimension == 0)) {
      return 0;
    }
    long bytes = dtype.bytes();
    try {
      for (long dimension : shape) {
        bytes = Math.multiplyExact(bytes, dimension);
      }
    } catch (ArithmeticException e) {
      throw malformed("tensor \"%s\": shape %s overflows", name, Arrays.toString(shape));
    }
    return bytes;
  }

  /** Tensors follow each other without overlap or gap and fill the file exactly. */
  private void checkCover(List<Place> places, long dataSize) throws SafetensorsException {
    places.sort(Comparator.comparingLong(Place::begin).thenComparingLong(Place::end));
    long at = 0;
    String before = null;
    for (Place place : places) {
      if (place.begin < at) {
        throw malformed(
            "tensors \"%s\" and \"%s\" overlap at byte %d of the data",
            before, place.name, place.begin);
      }
      if (place.end > dataSize) {
        throw malformed(
            "truncated: tensor \"%s\" ends at byte %d of the data, %d are there",
            place.name, place.end, dataSize);
      }
      if (place.begin > at) {
        throw malformed(
            "%d bytes before tensor \"%s\" belong to no tensor", place.begin - at, place.name);
      }
      at = place.end;
      before = place.name;
    }
    if (at < dataSize) {
      throw malformed("%d bytes after the last tensor", dataSize - at);
    }
  }

  /** A short text of what stands in the header. */
  private static String describe(JsonNode node) {
    if (node.isMissingNode()) {
      return "nothing";
    }
    String text = node.toString();
    return text.length() <= 60 ? text : text.substring(0, 57) + "...";
  }

  private SafetensorsException malformed(String format, Object... arguments) {
    return new SafetensorsException(file, format.formatted(arguments));
  }
}
