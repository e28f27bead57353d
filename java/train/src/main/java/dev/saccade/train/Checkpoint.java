package dev.saccade.train;

import dev.saccade.Context;
import dev.saccade.Precision;
import dev.saccade.Tensor;
import dev.saccade.train.io.Safetensors;
import dev.saccade.train.model.Parameter;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.Transformer;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/**
 * Checkpoints: safetensors files with the parameters as {@code policy.NAME} and the configuration
 * as metadata; those to resume from also hold the old and the reference policy, the optimizer's
 * moments and the counters of the run.
 */
public final class Checkpoint {
  private static final String FORMAT = "saccade-checkpoint-1";

  /** Metadata: examples that the policy was trained on. */
  static final String CURSOR = "cursor";

  private Checkpoint() {}

  /**
   * Writes a policy that can be evaluated, and that a run can begin with.
   *
   * @param cursor examples that it was trained on
   */
  static void writePolicy(Path file, TrainConfig config, PolicyModel policy, long cursor)
      throws IOException {
    policy(config, policy).metadata(CURSOR, Long.toString(cursor)).write(file);
  }

  private static Safetensors.Builder policy(TrainConfig config, PolicyModel policy) {
    Safetensors.Builder builder =
        Safetensors.builder().metadata("format", FORMAT).metadata("config", config.toJson());
    add(builder, "policy.", policy);
    return builder;
  }

  private static void add(Safetensors.Builder builder, String prefix, PolicyModel model) {
    for (Parameter parameter : model.parameters()) {
      builder.add(prefix + parameter.name(), parameter.value());
    }
  }

  /** Writes everything that a run needs to go on; {@code old} and {@code reference} may be null. */
  static void writeState(
      Path file,
      TrainConfig config,
      PolicyModel policy,
      PolicyModel old,
      PolicyModel reference,
      Optimizer optimizer,
      Map<String, String> counters)
      throws IOException {
    Safetensors.Builder builder = policy(config, policy);
    if (old != null) {
      add(builder, "old.", old);
      add(builder, "reference.", reference);
    }
    List<Parameter> parameters = policy.parameters();
    for (int i = 0; i < parameters.size(); i++) {
      Tensor[] moments = optimizer.moments(i);
      builder.add("adamw.m." + parameters.get(i).name(), moments[0]);
      builder.add("adamw.v." + parameters.get(i).name(), moments[1]);
    }
    builder.metadata(counters);
    builder.write(file);
  }

  /** Loads parameters that were written under a prefix. */
  static void load(Safetensors file, String prefix, PolicyModel model) throws IOException {
    for (Parameter parameter : model.parameters()) {
      file.load(prefix + parameter.name(), parameter.value());
    }
  }

  /** Loads the optimizer's moments. */
  static void load(Safetensors file, PolicyModel policy, Optimizer optimizer) throws IOException {
    List<Parameter> parameters = policy.parameters();
    for (int i = 0; i < parameters.size(); i++) {
      Tensor[] moments = optimizer.moments(i);
      file.load("adamw.m." + parameters.get(i).name(), moments[0]);
      file.load("adamw.v." + parameters.get(i).name(), moments[1]);
    }
  }

  /**
   * The configuration that a checkpoint was made with.
   *
   * @throws IOException if the file is not a checkpoint
   */
  public static TrainConfig config(Safetensors file, Path path) throws IOException {
    if (!FORMAT.equals(file.metadata().get("format"))) {
      throw new IOException(path + ": is not a checkpoint of saccade train");
    }
    try {
      return TrainConfig.fromJson(file.metadata().getOrDefault("config", ""));
    } catch (IllegalArgumentException e) {
      throw new IOException(path + ": " + e.getMessage(), e);
    }
  }

  /**
   * The policy of a run folder, at its end or as far as the run came, or a checkpoint itself.
   *
   * @throws IOException if there is none
   */
  public static Path find(Path runOrCheckpoint) throws IOException {
    if (!Files.isDirectory(runOrCheckpoint)) {
      return runOrCheckpoint;
    }
    RunFolder run = RunFolder.open(runOrCheckpoint);
    for (Path file : List.of(run.last(), run.latest(), run.warm())) {
      if (Files.exists(file)) {
        return file;
      }
    }
    throw new IOException(runOrCheckpoint + ": the run has no checkpoint yet");
  }

  /** As {@link #loadPolicy(Context, Path, Precision)}, with products in f32. */
  public static Transformer loadPolicy(Context context, Path path) throws IOException {
    return loadPolicy(context, path, Precision.F32);
  }

  /**
   * A policy from a checkpoint.
   *
   * @param context needs a provider of matrix products
   * @param precision of these products
   */
  public static Transformer loadPolicy(Context context, Path path, Precision precision)
      throws IOException {
    Safetensors file = Safetensors.open(path);
    TrainConfig config = config(file, path);
    Transformer policy =
        Transformer.create(context, config.transformer(), config.seed(), precision);
    try {
      load(file, "policy.", policy);
      return policy;
    } catch (IOException | RuntimeException e) {
      policy.close();
      throw e;
    }
  }
}
