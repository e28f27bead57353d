package dev.saccade.train.variance;

import static dev.saccade.train.variance.Setting.require;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.saccade.Divergence;
import dev.saccade.GroupAdvantage;
import dev.saccade.train.ConfigTree;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Everything that a study of variance depends on, but the checkpoint.
 *
 * @param estimators by name, and sums of them such as {@code grpo+ral}
 * @param prompts held-out examples that are asked, a multiple of {@code blocks}
 * @param groups of responses to each prompt
 * @param blocks of prompts: what the bootstrap draws, and what is stored
 * @param seed of responses, sampled positions and the bootstrap
 * @param layers of the attention estimators; -1 is the last
 * @param headBegin first head of the attention estimators
 * @param headEnd end of the heads; -1: all
 * @param divergence of {@code ral}
 * @param beta of JSD
 * @param advantage that weighs the rows of the attention estimators
 * @param reference checkpoint or run folder that the estimator {@code kl} compares with; null where
 *     there is none
 * @param covariances whether covariances between the estimators are measured
 * @param replicates of the bootstrap
 * @param raw groups of each prompt whose gradients are written
 * @param setting under which all is measured first
 * @param factors values of the setting that are each varied alone
 */
public record VarianceConfig(
    List<String> estimators,
    int prompts,
    int groups,
    int blocks,
    long seed,
    List<Integer> layers,
    int headBegin,
    int headEnd,
    Divergence divergence,
    double beta,
    GroupAdvantage.Estimator advantage,
    String reference,
    boolean covariances,
    int replicates,
    int raw,
    Setting setting,
    Map<String, List<JsonNode>> factors) {
  /** A few minutes on two cores for the preset demo. */
  public static final VarianceConfig DEFAULT =
      new VarianceConfig(
          List.of("none", "rloo", "dr_grpo", "grpo"),
          16,
          8,
          16,
          1,
          List.of(-1),
          0,
          -1,
          Divergence.JSD,
          0.5,
          GroupAdvantage.Estimator.GRPO,
          null,
          true,
          1000,
          0,
          Setting.DEFAULT,
          Map.of());

  /** A setting with the factor that makes it differ from the first. */
  public record Case(String factor, String value, Setting setting) {}

  public VarianceConfig {
    estimators = List.copyOf(estimators);
    require(!estimators.isEmpty(), "estimators", "a name or more", estimators);
    require(
        estimators.stream().distinct().count() == estimators.size(),
        "estimators",
        "names that differ",
        estimators);
    for (String name : estimators) {
      for (String term : name.split("\\+", -1)) {
        Estimator.of(term);
        require(
            !term.equals("kl") || reference != null,
            "reference",
            "a checkpoint or a run folder with the estimator kl",
            reference);
      }
    }
    require(prompts >= 1, "prompts", "1 or more", prompts);
    require(groups >= 1, "groups", "1 or more", groups);
    require(
        blocks >= 1 && prompts % blocks == 0,
        "blocks",
        "a divisor of prompts = " + prompts,
        blocks);
    layers = List.copyOf(layers);
    require(!layers.isEmpty(), "layers", "a layer or more", layers);
    require(beta > 0 && beta < 1, "beta", "a number between 0 and 1", beta);
    require(replicates >= 1, "replicates", "1 or more", replicates);
    require(raw >= 0, "raw", "0 or more", raw);
    factors = new LinkedHashMap<>(factors);
    for (Map.Entry<String, List<JsonNode>> factor : factors.entrySet()) {
      for (JsonNode value : factor.getValue()) {
        with(setting, factor.getKey(), value);
      }
    }
  }

  /**
   * The default with the values of trees laid over it, in order.
   *
   * @throws IllegalArgumentException if a name is unknown, or a value is out of range; the message
   *     names it
   */
  public static VarianceConfig resolve(List<ObjectNode> layers) {
    ObjectNode tree = ConfigTree.JSON.valueToTree(DEFAULT);
    for (ObjectNode layer : layers) {
      ObjectNode known = layer.deepCopy();
      // Its names are those of the setting; they are checked with the values.
      known.remove("factors");
      ConfigTree.requireNames(tree, known, "");
      ConfigTree.lay(tree, layer);
    }
    return ConfigTree.bind(tree, VarianceConfig.class, "configuration");
  }

  private static Setting with(Setting setting, String name, JsonNode value) {
    ObjectNode tree = ConfigTree.JSON.valueToTree(setting);
    ObjectNode change = ConfigTree.JSON.createObjectNode();
    change.set(name, value);
    ConfigTree.requireNames(tree, change, "factors.");
    return ConfigTree.bind(ConfigTree.lay(tree, change), Setting.class, "factors." + name);
  }

  /** The setting itself, then every value of every factor. */
  public List<Case> cases() {
    List<Case> cases = new ArrayList<>(List.of(new Case("", "", setting)));
    factors.forEach(
        (name, values) ->
            values.forEach(
                value -> cases.add(new Case(name, value.asText(), with(setting, name, value)))));
    return cases;
  }

  /** As JSON, which is YAML too. */
  public String toJson() {
    return ConfigTree.write(this);
  }
}
