package dev.saccade.cli.cases;

import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;

/** The operations that {@code saccade op} knows, by the names of the specification. */
public final class OpCases {
  private static final Map<String, OpCase> THERE =
      new TreeMap<>(
          Map.of(
              "group_advantage", new GroupAdvantageCase(),
              "token_log_probs", new TokenLogProbsCase(),
              "sampled_kl", new SampledKlCase(),
              "logit_divergence", new LogitDivergenceCase(),
              "policy_loss", new PolicyLossCase(),
              "attention_policy", new AttentionPolicyCase(),
              "attention_divergence", new AttentionDivergenceCase(),
              "grad_norm", new GradNormCase(),
              "adamw", new AdamWCase()));

  /** Specified operations that the library does not have. */
  private static final Set<String> NOT_THERE =
      new TreeSet<>(Set.of("policy_loss_from_logits", "linear_policy_loss", "gradient_moments"));

  private OpCases() {}

  /**
   * The operation of a name.
   *
   * @throws CaseException if the library does not have it, or the specification does not know it
   */
  public static OpCase named(String name) {
    OpCase operation = THERE.get(name);
    if (operation != null) {
      return operation;
    }
    if (NOT_THERE.contains(name)) {
      throw new CaseException("operation " + name + " is not implemented yet");
    }
    throw new CaseException(
        "unknown operation \"" + name + "\"; known: " + String.join(", ", THERE.keySet()));
  }
}
