package dev.saccade.train;

import com.fasterxml.jackson.annotation.JsonSetter;
import com.fasterxml.jackson.annotation.Nulls;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonMappingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.MapperFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.exc.MismatchedInputException;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.dataformat.yaml.YAMLMapper;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** Configurations as trees: YAML and JSON, layers over each other, and values by dotted names. */
public final class ConfigTree {
  /** Writes indented, reads strictly: null is a value of texts alone. */
  public static final ObjectMapper JSON =
      JsonMapper.builder()
          .enable(SerializationFeature.INDENT_OUTPUT)
          .enable(MapperFeature.ACCEPT_CASE_INSENSITIVE_ENUMS)
          .enable(DeserializationFeature.FAIL_ON_NULL_FOR_PRIMITIVES)
          .enable(DeserializationFeature.FAIL_ON_MISSING_CREATOR_PROPERTIES)
          .disable(DeserializationFeature.ACCEPT_FLOAT_AS_INT)
          .defaultSetterInfo(JsonSetter.Value.forValueNulls(Nulls.FAIL, Nulls.FAIL))
          .withConfigOverride(
              String.class, own -> own.setSetterInfo(JsonSetter.Value.forValueNulls(Nulls.SET)))
          .build();

  private static final ObjectMapper YAML =
      YAMLMapper.builder().enable(JsonParser.Feature.STRICT_DUPLICATE_DETECTION).build();

  private ConfigTree() {}

  /**
   * Reads a YAML file, which may be JSON.
   *
   * @throws IOException if it cannot be read or is not a mapping; the message names the file
   */
  public static ObjectNode read(Path file) throws IOException {
    if (Files.isDirectory(file)) {
      throw new IOException(file + ": expected a file, got a folder");
    }
    try {
      return mapping(YAML.readTree(Files.readString(file)), file.toString());
    } catch (JsonProcessingException e) {
      throw new IOException(file + ": " + place(e) + e.getOriginalMessage(), e);
    } catch (IllegalArgumentException e) {
      throw new IOException(e.getMessage(), e);
    }
  }

  /** A value as YAML writes it: {@code 3}, {@code grpo_d}, {@code [0, 1]}. */
  public static JsonNode value(String text) {
    try {
      return YAML.readTree(text);
    } catch (JsonProcessingException e) {
      throw new IllegalArgumentException(
          "expected a value in YAML, got " + text + ": " + e.getOriginalMessage(), e);
    }
  }

  /** The mappings of a resource beside this class, {@code common} laid under all others. */
  static Map<String, ObjectNode> presets(String resource) {
    try (InputStream stream = ConfigTree.class.getResourceAsStream(resource)) {
      ObjectNode all = mapping(YAML.readTree(stream), resource);
      ObjectNode common = (ObjectNode) all.remove("common");
      return all.properties().stream()
          .collect(
              Collectors.toUnmodifiableMap(
                  Map.Entry::getKey,
                  preset -> lay(common.deepCopy(), (ObjectNode) preset.getValue())));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static ObjectNode mapping(JsonNode tree, String name) {
    if (tree instanceof ObjectNode mapping) {
      return mapping;
    }
    throw new IllegalArgumentException(
        name + ": expected a mapping of names to values, got " + given(tree));
  }

  /** Lays a tree over another, which is changed and returned: mappings merge, all else replaces. */
  public static ObjectNode lay(ObjectNode under, ObjectNode over) {
    over.properties()
        .forEach(
            entry -> {
              JsonNode below = under.get(entry.getKey());
              boolean both = below instanceof ObjectNode && entry.getValue() instanceof ObjectNode;
              under.set(
                  entry.getKey(),
                  both
                      ? lay((ObjectNode) below, (ObjectNode) entry.getValue())
                      : entry.getValue().deepCopy());
            });
    return under;
  }

  /**
   * A tree of values by dotted names, such as {@code rl.kl.coef}.
   *
   * @param values in order; a value may be a mapping
   */
  public static ObjectNode of(Map<String, ?> values) {
    ObjectNode root = JSON.createObjectNode();
    values.forEach(
        (name, value) -> {
          String[] path = name.split("\\.", -1);
          ObjectNode leaf = JSON.createObjectNode();
          leaf.set(path[path.length - 1], JSON.valueToTree(value));
          for (int i = path.length - 2; i >= 0; i--) {
            leaf = JSON.createObjectNode().set(path[i], leaf);
          }
          lay(root, leaf);
        });
    return root;
  }

  /**
   * Checks that a tree has no names but those of another, and mappings where that has them.
   *
   * @throws IllegalArgumentException naming the first that differs
   */
  public static void requireNames(ObjectNode known, ObjectNode tree, String prefix) {
    for (Map.Entry<String, JsonNode> entry : tree.properties()) {
      String name = prefix + entry.getKey();
      JsonNode expected = known.get(entry.getKey());
      if (expected == null) {
        List<String> names = new ArrayList<>();
        known.fieldNames().forEachRemaining(names::add);
        throw new IllegalArgumentException(
            name + ": is not the name of a value; known here: " + String.join(", ", names));
      }
      if (expected.isObject() != entry.getValue().isObject()) {
        throw new IllegalArgumentException(
            "%s: expected %s, got %s"
                .formatted(
                    name, expected.isObject() ? "a mapping" : "a value", given(entry.getValue())));
      }
      if (expected instanceof ObjectNode section) {
        requireNames(section, (ObjectNode) entry.getValue(), name + ".");
      }
    }
  }

  /**
   * A value of a tree, such as a record.
   *
   * @param name of the whole, for messages
   * @throws IllegalArgumentException if a value is missing, unknown, of another type, or rejected;
   *     the message names it
   */
  public static <T> T bind(JsonNode tree, Class<T> type, String name) {
    if (tree.isNull()) {
      throw new IllegalArgumentException(expected(name, type, tree));
    }
    try {
      return JSON.treeToValue(tree, type);
    } catch (JsonProcessingException e) {
      // A value that the record rejects says so itself.
      throw e.getCause() instanceof IllegalArgumentException rejected
          ? rejected
          : new IllegalArgumentException(describe(e, name, tree), e);
    }
  }

  private static String describe(JsonProcessingException e, String whole, JsonNode tree) {
    if (!(e instanceof JsonMappingException mapping)) {
      return whole + ": " + place(e) + e.getOriginalMessage();
    }
    List<String> names = new ArrayList<>();
    JsonNode value = tree;
    for (JsonMappingException.Reference part : mapping.getPath()) {
      boolean element = part.getFieldName() == null;
      value = element ? value.path(part.getIndex()) : value.path(part.getFieldName());
      names.add(element ? Integer.toString(part.getIndex()) : part.getFieldName());
    }
    String name = names.isEmpty() ? whole : String.join(".", names);
    return e instanceof MismatchedInputException wrong && wrong.getTargetType() != null
        ? expected(name, wrong.getTargetType(), value)
        : name + ": " + e.getOriginalMessage();
  }

  private static String expected(String name, Class<?> type, JsonNode value) {
    String example =
        Collection.class.isAssignableFrom(type) && value.isValueNode() && !value.isNull()
            ? ", such as [" + given(value) + "]"
            : "";
    return "%s: expected %s%s, got %s".formatted(name, kind(type), example, given(value));
  }

  /** A value for messages. */
  static String given(JsonNode value) {
    if (value.isMissingNode() || value.isNull()) {
      return "nothing";
    }
    return value.isContainerNode() || value.asText().isBlank() ? value.toString() : value.asText();
  }

  private static String kind(Class<?> type) {
    if (type.isEnum()) {
      return "one of "
          + Arrays.stream(type.getEnumConstants())
              .map(Object::toString)
              .collect(Collectors.joining(", "));
    }
    if (Collection.class.isAssignableFrom(type)) {
      return "a list in brackets";
    }
    if (type.isRecord()) {
      return "a mapping";
    }
    return switch (type.getSimpleName()) {
      case "int", "long", "Integer", "Long" -> "an integer";
      case "double", "float", "Double", "Float" -> "a number";
      case "boolean", "Boolean" -> "true or false";
      case "String" -> "a text";
      default -> "a " + type.getSimpleName();
    };
  }

  private static String place(JsonProcessingException e) {
    return e.getLocation() == null || e.getLocation().getLineNr() < 1
        ? ""
        : "line " + e.getLocation().getLineNr() + ": ";
  }

  /** As indented JSON. */
  public static String write(Object value) {
    try {
      return JSON.writeValueAsString(value);
    } catch (JsonProcessingException e) {
      throw new IllegalStateException(e);
    }
  }

  static JsonNode parse(String json) {
    try {
      return JSON.readTree(json);
    } catch (JsonProcessingException e) {
      throw new IllegalArgumentException("configuration: " + place(e) + e.getOriginalMessage(), e);
    }
  }
}
