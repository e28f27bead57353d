package dev.saccade.train.io;

import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Writes a file of which every byte follows from the content. */
final class SafetensorsWriter {
  private static final JsonMapper JSON = new JsonMapper();
  private static final int ALIGNMENT = 8;

  private SafetensorsWriter() {}

  static void write(Safetensors tensors, Path file) throws IOException {
    Path target = file.toAbsolutePath();
    Path folder = target.getParent();
    Path temporary = folder.resolve("." + target.getFileName() + ".tmp");
    try {
      try (FileChannel channel =
          FileChannel.open(
              temporary,
              StandardOpenOption.CREATE,
              StandardOpenOption.TRUNCATE_EXISTING,
              StandardOpenOption.WRITE)) {
        List<Map.Entry<String, Safetensors.Entry>> order = order(tensors);
        writeFully(channel, header(tensors, order));
        for (Map.Entry<String, Safetensors.Entry> entry : order) {
          writeFully(channel, entry.getValue().data());
        }
        channel.force(true);
      }
      Files.move(
          temporary, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    } catch (IOException | RuntimeException e) {
      Files.deleteIfExists(temporary);
      throw e;
    }
    synchroniseFolder(folder);
  }

  /** Wide elements first, so that every tensor is aligned to its element; then by name. */
  private static List<Map.Entry<String, Safetensors.Entry>> order(Safetensors tensors) {
    Comparator<Map.Entry<String, Safetensors.Entry>> byWidth =
        Comparator.comparingInt(entry -> -entry.getValue().dtype().bytes());
    return tensors.entries().entrySet().stream()
        .sorted(byWidth.thenComparing(Map.Entry::getKey))
        .toList();
  }

  /**
   * Length and JSON, names sorted, padded with spaces so that the data start at a multiple of 8.
   */
  private static ByteBuffer header(
      Safetensors tensors, List<Map.Entry<String, Safetensors.Entry>> order) throws IOException {
    Map<String, Long> begins = new HashMap<>();
    long at = 0;
    for (Map.Entry<String, Safetensors.Entry> entry : order) {
      begins.put(entry.getKey(), at);
      at += entry.getValue().data().capacity();
    }
    ObjectNode root = JsonNodeFactory.instance.objectNode();
    if (!tensors.metadata().isEmpty()) {
      ObjectNode metadata = root.putObject(SafetensorsReader.METADATA);
      tensors.metadata().forEach(metadata::put);
    }
    tensors
        .entries()
        .forEach(
            (name, entry) -> {
              ObjectNode place = root.putObject(name);
              place.put("dtype", entry.dtype().safetensorsName());
              ArrayNode shape = place.putArray("shape");
              for (long dimension : entry.shape()) {
                shape.add(dimension);
              }
              long begin = begins.get(name);
              place.putArray("data_offsets").add(begin).add(begin + entry.data().capacity());
            });
    byte[] json = JSON.writeValueAsString(root).getBytes(StandardCharsets.UTF_8);
    int length = (json.length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (length > SafetensorsReader.MAX_HEADER) {
      throw new IOException("a header of " + length + " bytes is longer than the format allows");
    }
    ByteBuffer header = ByteBuffer.allocate(8 + length).order(ByteOrder.LITTLE_ENDIAN);
    header.putLong(length).put(json);
    while (header.hasRemaining()) {
      header.put((byte) ' ');
    }
    return header.flip();
  }

  private static void writeFully(FileChannel channel, ByteBuffer bytes) throws IOException {
    while (bytes.hasRemaining()) {
      channel.write(bytes);
    }
  }

  /** Makes the rename itself durable, where the system can open a folder. */
  private static void synchroniseFolder(Path folder) {
    try (FileChannel channel = FileChannel.open(folder, StandardOpenOption.READ)) {
      channel.force(true);
    } catch (IOException e) {
      // The content is on the disk, and the rename is atomic without this.
    }
  }
}
