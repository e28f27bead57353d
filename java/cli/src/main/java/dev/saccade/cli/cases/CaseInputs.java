package dev.saccade.cli.cases;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.json.JsonReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.json.JsonMapper;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.io.Safetensors;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/**
 * The inputs of a case: tensors {@code in.*}, loaded when asked for, and attributes, which take the
 * defaults of the specification where they are absent or null.
 *
 * <p>What nobody asked for is unknown to the operation: {@link #requireAllUsed} makes that an
 * error, so that a misspelt option is never ignored.
 */
public final class CaseInputs {
  private static final String PREFIX = "in.";

  private static final ObjectReader JSON =
      JsonMapper.builder()
          .enable(JsonParser.Feature.STRICT_DUPLICATE_DETECTION)
          .enable(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS)
          .build()
          .readerFor(JsonNode.class);

  private final Safetensors file;
  private final Scope scope;
  private final JsonNode attributes;
  private final Map<String, Tensor> loaded = new HashMap<>();
  private final Map<String, Tensor> loadedLongs = new HashMap<>();
  private final Set<String> usedAttributes = new TreeSet<>();
  private final Set<String> usedTensors = new TreeSet<>();

  /**
   * @param file a case
   * @param scope owns the tensors
   * @throws CaseException if the attributes are not a JSON object
   */
  public CaseInputs(Safetensors file, Scope scope) {
    this.file = file;
    this.scope = scope;
    String text = file.metadata().getOrDefault("attrs", "{}");
    try {
      attributes = JSON.readTree(text);
    } catch (JsonProcessingException e) {
      throw new CaseException("attrs: " + e.getOriginalMessage());
    }
    if (!attributes.isObject()) {
      throw new CaseException("attrs: expected a JSON object, got " + text);
    }
  }

  // ---------------------------------------------------------------------------------- tensors

  /** Whether there is a tensor {@code in.<name>}. */
  public boolean has(String name) {
    usedTensors.add(name);
    return file.contains(PREFIX + name);
  }

  /** A copy of {@code in.<name>} on the device, null if there is none. */
  public Tensor optional(String name) {
    if (!has(name)) {
      return null;
    }
    Tensor early = loaded.remove(name);
    return early == null ? file.load(scope, PREFIX + name) : early;
  }

  /**
   * The integers of {@code in.<name>} as i64 on the device.
   *
   * @throws CaseException if there is none, or it does not hold integers
   */
  public Tensor longs(String name) {
    long[] values = integers(name);
    Tensor early = loadedLongs.remove(name);
    return early == null ? Tensor.of(scope, values, new long[] {values.length}) : early;
  }

  /** Copies all tensors to the device, so that later asking for one copies nothing. */
  public void loadAll() {
    file.entries()
        .forEach(
            (entry, value) -> {
              if (!entry.startsWith(PREFIX)) {
                return;
              }
              String name = entry.substring(PREFIX.length());
              loaded.put(name, file.load(scope, entry));
              if (value.dtype() == DType.I32) {
                long[] values = value.toLongs();
                loadedLongs.put(name, Tensor.of(scope, values, new long[] {values.length}));
              }
            });
  }

  /**
   * A copy of {@code in.<name>} on the device.
   *
   * @throws CaseException if there is none
   */
  public Tensor tensor(String name) {
    if (!has(name)) {
      throw new CaseException("tensor in." + name + " is missing");
    }
    return optional(name);
  }

  /** Copies of {@code in.<prefix>0}, {@code in.<prefix>1} … up to the first that is not there. */
  public List<Tensor> numbered(String prefix) {
    List<Tensor> tensors = new ArrayList<>();
    while (has(prefix + tensors.size())) {
      tensors.add(tensor(prefix + tensors.size()));
    }
    return tensors;
  }

  /**
   * The integers of {@code in.<name>}.
   *
   * @throws CaseException if there is none, or it does not hold integers
   */
  public long[] integers(String name) {
    if (!has(name)) {
      throw new CaseException("tensor in." + name + " is missing");
    }
    Safetensors.Entry entry = file.entry(PREFIX + name);
    return switch (entry.dtype()) {
      case I32, I64, U8 -> entry.toLongs();
      default -> throw new CaseException("tensor in." + name + ": expected integers, got " + entry);
    };
  }

  // ------------------------------------------------------------------------------- attributes

  private JsonNode find(String name) {
    usedAttributes.add(name);
    JsonNode node = attributes.get(name);
    return node == null || node.isNull() ? null : node;
  }

  private JsonNode get(String name) {
    JsonNode node = find(name);
    if (node == null) {
      throw new CaseException("attribute " + name + " is missing");
    }
    return node;
  }

  private static CaseException wrong(String name, String expected, JsonNode actual) {
    return new CaseException("attribute " + name + ": expected " + expected + ", got " + actual);
  }

  /** A number that the operation cannot do without. */
  public float number(String name) {
    JsonNode node = get(name);
    if (!node.isNumber()) {
      throw wrong(name, "a number", node);
    }
    return (float) node.doubleValue();
  }

  /** A number. */
  public float number(String name, float otherwise) {
    return find(name) == null ? otherwise : number(name);
  }

  /** An integer that the operation cannot do without. */
  public int integer(String name) {
    JsonNode node = get(name);
    if (!node.canConvertToExactIntegral() || !node.canConvertToInt()) {
      throw wrong(name, "an integer", node);
    }
    return node.intValue();
  }

  /** An integer. */
  public int integer(String name, int otherwise) {
    return find(name) == null ? otherwise : integer(name);
  }

  /** A flag: true, false, 1 or 0. */
  public boolean flag(String name, boolean otherwise) {
    JsonNode node = find(name);
    if (node == null) {
      return otherwise;
    }
    if (node.isBoolean()) {
      return node.booleanValue();
    }
    if (node.isInt() && (node.intValue() == 0 || node.intValue() == 1)) {
      return node.intValue() == 1;
    }
    throw wrong(name, "true or false", node);
  }

  /** A constant of an enum, by its name. */
  public <E extends Enum<E>> E choice(String name, Class<E> type, E otherwise) {
    JsonNode node = find(name);
    if (node == null) {
      return otherwise;
    }
    for (E constant : type.getEnumConstants()) {
      if (node.isTextual() && constant.name().equals(node.textValue())) {
        return constant;
      }
    }
    List<String> names = Arrays.stream(type.getEnumConstants()).map(Enum::name).toList();
    throw wrong(name, "one of " + String.join(", ", names), node);
  }

  /**
   * Checks that the case holds nothing that the operation did not ask for.
   *
   * @throws CaseException naming the first tensor or attribute that it does not know
   */
  public void requireAllUsed() {
    for (Map.Entry<String, JsonNode> attribute : attributes.properties()) {
      if (!usedAttributes.contains(attribute.getKey())) {
        throw new CaseException(
            "unknown attribute \""
                + attribute.getKey()
                + "\"; known: "
                + String.join(", ", usedAttributes));
      }
    }
    for (String name : file.entries().keySet()) {
      if (name.startsWith(PREFIX) && !usedTensors.contains(name.substring(PREFIX.length()))) {
        throw new CaseException(
            "unknown tensor " + name + "; known: in." + String.join(", in.", usedTensors));
      }
    }
  }
}
