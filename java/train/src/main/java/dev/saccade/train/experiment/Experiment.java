package dev.saccade.train.experiment;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.saccade.train.Algorithm;
import dev.saccade.train.ConfigTree;
import dev.saccade.train.TrainConfig;
import dev.saccade.train.task.Task;
import dev.saccade.train.task.TaskMixture;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * What an experiment compares: every combination of a choice on each axis, for every seed.
 *
 * <pre>
 * title: ...
 * seeds: [1, 2, 3]
 * common: {preset: demo}                 # under every run
 * warmup: {task: read, sft: {steps: 600}}   # supervised: the policy that runs begin with
 * teacher: {...}                         # likewise, where runs distil
 * axes:
 *   rule:
 *     base: {rl: {steps: 0}}
 *     grpo: {algorithm: grpo}
 * compare: {rule: [base]}                # differences from these, seed by seed
 * evaluate: [read, count]                # every run on each of them; absent: on its own task
 * </pre>
 *
 * <p>Runs of a seed whose policies have the same size share one warm-up, and one teacher. Of two
 * rules on the same axis, one supervised, both take as many optimizer steps on as many responses.
 *
 * @param title what it is about, in a line
 * @param variants the combinations, in order
 * @param evaluate questions that every run is asked at its end; empty: its own
 * @param axis the axis of {@code compare}; null where nothing is compared
 * @param baselines choices of that axis
 * @param plans a run for each variant and seed; seed by seed
 */
public record Experiment(
    String title,
    List<Variant> variants,
    List<String> evaluate,
    String axis,
    List<String> baselines,
    List<Plan> plans) {
  private static final List<String> SECTIONS =
      List.of("common", "warmup", "teacher", "axes", "compare");

  /** What else may be said of the policy in {@code common}: warm-ups share it. */
  private static final List<String> OF_THE_POLICY =
      List.of("cells", "patch", "thinking", "model", "precision");

  private static final List<String> NOT_OF_SOURCES = List.of("algorithm", "rl");

  /**
   * A combination.
   *
   * @param labels the choice on each axis
   * @param values what they change
   */
  public record Variant(Map<String, String> labels, ObjectNode values) {
    /** The choices, joined by slashes. */
    public String name() {
      return String.join("/", labels.values());
    }

    /** The same but for one axis; the name of that variant. */
    String nameWith(String axis, String choice) {
      Map<String, String> other = new LinkedHashMap<>(labels);
      other.put(axis, choice);
      return String.join("/", other.values());
    }
  }

  /**
   * A policy that others begin with, or learn from.
   *
   * @param config of its run
   */
  public record Source(TrainConfig config) {
    /** The name of its folder. */
    String folder() {
      return "warmup-s" + config.seed() + "-" + digest(config.toJson());
    }
  }

  /**
   * A run.
   *
   * @param config all but the paths of what it begins with and learns from
   * @param warmup what it begins with
   * @param teacher what it learns from; null where there is none
   */
  public record Plan(Variant variant, TrainConfig config, Source warmup, Source teacher) {
    /** Changes with its variant, and with anything that the numbers of the run depend on. */
    public String key() {
      return digest(
          variant.name()
              + config.toJson()
              + warmup.config.toJson()
              + (teacher == null ? "" : teacher.config.toJson()));
    }

    /** The name of its folder. */
    String folder() {
      return variant.name().replaceAll("[^A-Za-z0-9._-]", "_") + "-s" + config.seed() + "-" + key();
    }

    /** The configuration with the policies at these places. */
    TrainConfig beginning(Path from, Path taught) {
      Map<String, Object> paths = new LinkedHashMap<>();
      paths.put("sft.from", from.toString());
      if (taught != null) {
        paths.put("rl.distillation.teacher", taught.toString());
      }
      return config.with(paths);
    }
  }

  /** What the policy of a plan is asked at the end. */
  List<String> asked(Plan plan) {
    return evaluate.isEmpty() ? List.of(plan.config.task()) : evaluate;
  }

  private static String digest(String text) {
    return digest(text.getBytes(StandardCharsets.UTF_8));
  }

  /** Some digits that tell apart. */
  static String digest(byte[] bytes) {
    try {
      byte[] hash = MessageDigest.getInstance("SHA-256").digest(bytes);
      return HexFormat.of().formatHex(hash, 0, 4);
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  // -------------------------------------------------------------------------------------- reading

  /**
   * Reads an experiment.
   *
   * @param seeds in the place of those of the file; null: those
   * @param over laid over {@code common}, {@code warmup} and {@code teacher}
   * @throws IOException if the file cannot be read
   * @throws IllegalArgumentException if it is not an experiment; the message names what is wrong
   */
  public static Experiment read(Path file, List<Long> seeds, ObjectNode over) throws IOException {
    return new Reader(ConfigTree.read(file), over).read(seeds);
  }

  private static final class Reader {
    private final ObjectNode file;
    private final ObjectNode common;
    private final ObjectNode over;

    Reader(ObjectNode file, ObjectNode over) {
      this.file = file;
      this.over = over;
      ObjectNode names = ConfigTree.JSON.createObjectNode();
      List.of("title", "seeds", "evaluate").forEach(names::putNull);
      // What is in them is checked by what they become.
      SECTIONS.forEach(section -> names.set(section, section(section)));
      ConfigTree.requireNames(names, file, "");
      common = section("common");
    }

    private ObjectNode section(String name) {
      JsonNode value = file.path(name);
      if (!value.isMissingNode() && !value.isObject()) {
        throw new IllegalArgumentException(name + ": expected a mapping, got " + value);
      }
      return value.isObject() ? (ObjectNode) value : ConfigTree.JSON.createObjectNode();
    }

    private List<String> strings(JsonNode value, String name) {
      if (!(value instanceof ArrayNode list)) {
        throw new IllegalArgumentException(name + ": expected a list, got " + value);
      }
      List<String> texts = new ArrayList<>();
      list.forEach(element -> texts.add(element.asText()));
      return texts;
    }

    Experiment read(List<Long> given) {
      if (!file.has("axes") || section("axes").isEmpty()) {
        throw new IllegalArgumentException("axes: expected an axis or more, got none");
      }
      List<Variant> variants = List.of(new Variant(Map.of(), ConfigTree.JSON.createObjectNode()));
      for (Map.Entry<String, JsonNode> axis : section("axes").properties()) {
        variants = cross(variants, axis.getKey(), axis.getValue());
      }
      String axis = null;
      List<String> baselines = List.of();
      for (Map.Entry<String, JsonNode> compare : section("compare").properties()) {
        if (axis != null) {
          throw new IllegalArgumentException("compare: expected one axis, got another: " + compare);
        }
        axis = compare.getKey();
        baselines = strings(compare.getValue(), "compare." + axis);
        JsonNode choices = section("axes").path(axis);
        for (String baseline : baselines) {
          if (!choices.has(baseline)) {
            throw new IllegalArgumentException(
                "compare." + axis + ": expected choices of that axis, got " + baseline);
          }
        }
      }
      List<String> evaluate =
          file.has("evaluate") ? strings(file.get("evaluate"), "evaluate") : List.of();
      evaluate.forEach(TaskMixture::parse);
      String room = room(variants, evaluate);
      List<Plan> plans = new ArrayList<>();
      if (given != null && new HashSet<>(given).size() < given.size()) {
        throw new IllegalArgumentException("--seeds: expected integers that differ, got " + given);
      }
      for (long seed : given == null ? seeds() : given) {
        for (Variant variant : variants) {
          plans.add(plan(variant, seed, room));
        }
      }
      return new Experiment(
          file.path("title").asText(""), variants, evaluate, axis, baselines, plans);
    }

    private List<Long> seeds() {
      Set<Long> seeds = new LinkedHashSet<>();
      for (JsonNode seed : file.path("seeds")) {
        if (!seed.canConvertToExactIntegral() || !seeds.add(seed.asLong())) {
          throw new IllegalArgumentException(
              "seeds: expected integers that differ, got " + file.get("seeds"));
        }
      }
      if (seeds.isEmpty()) {
        throw new IllegalArgumentException("seeds: expected a list of one or more, got none");
      }
      return List.copyOf(seeds);
    }

    private static List<Variant> cross(List<Variant> variants, String axis, JsonNode choices) {
      if (!choices.isObject() || choices.isEmpty()) {
        throw new IllegalArgumentException(
            "axes." + axis + ": expected a mapping of choices to values, got " + choices);
      }
      List<Variant> crossed = new ArrayList<>();
      for (Variant variant : variants) {
        for (Map.Entry<String, JsonNode> choice : choices.properties()) {
          if (!(choice.getValue() instanceof ObjectNode values)) {
            throw new IllegalArgumentException(
                "axes.%s.%s: expected a mapping, got %s"
                    .formatted(axis, choice.getKey(), choice.getValue()));
          }
          Map<String, String> labels = new LinkedHashMap<>(variant.labels);
          labels.put(axis, choice.getKey());
          crossed.add(new Variant(labels, ConfigTree.lay(variant.values.deepCopy(), values)));
        }
      }
      return crossed;
    }

    /** All questions of the experiment: every policy has room for them. */
    private String room(List<Variant> variants, List<String> evaluate) {
      Map<String, Task> all = new LinkedHashMap<>();
      List<String> mixtures = new ArrayList<>(evaluate);
      for (Variant variant : variants) {
        mixtures.add(
            TrainConfig.resolve(List.of(common, over, variant.values, anyTeacher())).task());
      }
      for (String section : List.of("warmup", "teacher")) {
        if (section(section).has("task")) {
          mixtures.add(section(section).get("task").asText());
        }
      }
      for (String mixture : mixtures) {
        TaskMixture.parse(mixture).tasks().forEach(task -> all.putIfAbsent(task.name(), task));
      }
      return new TaskMixture(List.copyOf(all.values())).toString();
    }

    /**
     * For the check that who distils has a teacher: its place is known when it has been trained.
     */
    private static ObjectNode anyTeacher() {
      return ConfigTree.of(Map.of("rl.distillation.teacher", "teacher"));
    }

    private Plan plan(Variant variant, long seed, String room) {
      ObjectNode own = ConfigTree.of(Map.of("seed", seed, "room", room));
      TrainConfig config =
          TrainConfig.resolve(List.of(common, over, variant.values, own, anyTeacher()));
      boolean taught =
          config.algorithm() != Algorithm.SFT
              && (config.rl().distillation().mu() > 0 || config.rl().distillation().gamma() > 0);
      Source teacher = null;
      if (taught) {
        if (!file.has("teacher")) {
          throw new IllegalArgumentException(
              "teacher: expected one for " + variant.name() + ", which distils, got none");
        }
        teacher = source("teacher", variant, own);
      }
      TrainConfig.Rl rl = config.rl();
      Map<String, Object> supervised = new LinkedHashMap<>();
      if (config.algorithm() == Algorithm.SFT) {
        supervised.put("sft.steps", rl.steps() * rl.updates());
        supervised.put("sft.batch", rl.prompts() / rl.minibatches() * rl.group());
        supervised.put("sft.optimizer", rl.optimizer());
        supervised.put("sft.targetAccuracy", 2);
      } else {
        supervised.put("sft.steps", 0);
      }
      return new Plan(variant, config.with(supervised), source("warmup", variant, own), teacher);
    }

    /** What belongs to rewards is left out: it would make other policies of the same. */
    private Source source(String section, Variant variant, ObjectNode own) {
      return new Source(
          TrainConfig.resolve(
              List.of(
                  common.deepCopy().without(NOT_OF_SOURCES),
                  variant.values.deepCopy().retain(OF_THE_POLICY),
                  section(section),
                  over.deepCopy().without(NOT_OF_SOURCES),
                  own,
                  ConfigTree.of(Map.of("algorithm", Algorithm.SFT)))));
    }
  }
}
