package dev.saccade.cli.cases;

import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;

/** The operations that {@code saccade op} knows, by the names of the specification. */
public final class OpCases {
  private static final Map<String, OpCase> THERE =
      new TreeMap<>(
          Map.ofEntries(
              Map.entry("group_advantage", new GroupAdvantageCase()),
              Map.entry("token_log_probs", new TokenLogProbsCase()),
              Map.entry("sampled_kl", new SampledKlCase()),
              Map.entry("policy_loss", new PolicyLossCase()),
              Map.entry("policy_loss_from_logits", new PolicyLossFromLogitsCase()),
              Map.entry("linear_policy_loss", new LinearPolicyLossCase()),
              Map.entry("attention_policy", new AttentionPolicyCase()),
              Map.entry("attention_divergence", new AttentionDivergenceCase()),
              Map.entry("grad_norm", new GradNormCase()),
              Map.entry("adamw", new AdamWCase()),
              Map.entry("gradient_moments", new GradientMomentsCase())));

  /** Specified operations that the library does not have. */
  private static final Set<String> NOT_THERE =
      new TreeSet<>(Set.of("logit_divergence"));

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
