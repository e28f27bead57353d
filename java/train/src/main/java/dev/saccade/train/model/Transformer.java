package dev.saccade.train.model;

import dev.saccade.Attention;
import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Device;
import dev.saccade.GatherRows;
import dev.saccade.Gemm;
import dev.saccade.Precision;
import dev.saccade.RmsNorm;
import dev.saccade.SampleTokens;
import dev.saccade.ScatterAddRows;
import dev.saccade.Scope;
import dev.saccade.SwiGlu;
import dev.saccade.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

/**
 * A small multimodal policy: a decoder-only transformer over [image patches | question | response],
 * causal, pre-norm with RMSNorm, learned positions, grouped-query attention, SwiGLU, no biases,
 * f32.
 *
 * <p>Needs a context with a provider of matrix products. Used by one thread at a time.
 */
public final class Transformer implements PolicyModel {
  private static final float EPS = 1e-6f;

  /** Tokens that are drawn on a GPU before the host looks whether all responses have ended. */
  private static final int UNSEEN = 16;

  private final Context context;
  private final TransformerConfig config;
  private final Precision precision;
  private final Gemm.Options plain;
  private final Gemm.Options add;
  private final Gemm.Options timesTransposed;
  private final Gemm.Options weightGradient;
  private final Scope scope;
  private final List<Parameter> parameters = new ArrayList<>();
  private final Parameter patch;
  private final Parameter token;
  private final Parameter position;
  private final List<Block> blocks = new ArrayList<>();
  private final Parameter finalNorm;
  private final Parameter head;

  /** Parameters of one layer. */
  private record Block(
      Parameter attentionNorm,
      Parameter qkv,
      Parameter output,
      Parameter feedForwardNorm,
      Parameter gateUp,
      Parameter down) {}

  private Transformer(Context context, TransformerConfig config, Precision precision) {
    this.context = context;
    this.config = config;
    this.precision = precision;
    plain = Gemm.Options.DEFAULT.withPrecision(precision);
    add = plain.withBeta(1);
    timesTransposed = plain.withTransB(true);
    weightGradient = plain.withTransA(true).withBeta(1);
    this.scope = context.scope();
    int d = config.width();
    patch = parameter("patch", config.patchSize(), d);
    token = parameter("token", config.vocabulary(), d);
    position = parameter("position", config.positions(), d);
    for (int l = 0; l < config.layers(); l++) {
      String name = "layer" + l + ".";
      blocks.add(
          new Block(
              parameter(name + "attention_norm", d),
              parameter(name + "qkv", d, config.qkvWidth()),
              parameter(name + "output", config.heads() * config.headDim(), d),
              parameter(name + "feed_forward_norm", d),
              parameter(name + "gate_up", d, 2L * config.hidden()),
              parameter(name + "down", config.hidden(), d)));
    }
    finalNorm = parameter("final_norm", d);
    head = parameter("head", d, config.vocabulary());
  }

  /** As {@link #create(Context, TransformerConfig, long, Precision)}, with products in f32. */
  public static Transformer create(Context context, TransformerConfig config, long seed) {
    return create(context, config, seed, Precision.F32);
  }

  /**
   * A model with fresh weights: normal, 1/√fan-in, residual outputs scaled down by √(2·layers).
   *
   * @param precision of the products of matrices; all that is kept is f32
   */
  public static Transformer create(
      Context context, TransformerConfig config, long seed, Precision precision) {
    Transformer model = new Transformer(context, config, precision);
    Random random = new Random(seed);
    double residual = 1 / Math.sqrt(2.0 * config.layers());
    double width = 1 / Math.sqrt(config.width());
    model.normal(random, model.patch, 1.5 / Math.sqrt(config.patchSize()));
    model.normal(random, model.token, 0.5);
    model.normal(random, model.position, 0.3);
    for (Block block : model.blocks) {
      model.ones(block.attentionNorm);
      model.normal(random, block.qkv, width);
      model.normal(
          random, block.output, residual / Math.sqrt((double) config.heads() * config.headDim()));
      model.ones(block.feedForwardNorm);
      model.normal(random, block.gateUp, width);
      model.normal(random, block.down, residual / Math.sqrt(config.hidden()));
    }
    model.ones(model.finalNorm);
    model.normal(random, model.head, 0.3 * width);
    return model;
  }

  private Parameter parameter(String name, long... shape) {
    Parameter parameter =
        new Parameter(
            name,
            Tensor.zeros(scope, DType.F32, shape),
            Tensor.zeros(scope, DType.F32, shape),
            shape.length > 1);
    parameters.add(parameter);
    return parameter;
  }

  private void normal(Random random, Parameter parameter, double deviation) {
    float[] values = new float[(int) parameter.value().size()];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) (random.nextGaussian() * deviation);
    }
    parameter.value().copyFrom(values);
  }

  private void ones(Parameter parameter) {
    float[] values = new float[(int) parameter.value().size()];
    Arrays.fill(values, 1);
    parameter.value().copyFrom(values);
  }

  /** The size of this model. */
  public TransformerConfig config() {
    return config;
  }

  @Override
  public Context context() {
    return context;
  }

  @Override
  public int vocabulary() {
    return config.vocabulary();
  }

  @Override
  public int layers() {
    return config.layers();
  }

  @Override
  public List<Parameter> parameters() {
    return List.copyOf(parameters);
  }

  @Override
  public Transformer copy() {
    Transformer copy = new Transformer(context, config, precision);
    copy.copyFrom(this);
    return copy;
  }

  @Override
  public void close() {
    scope.close();
  }

  // ------------------------------------------------------------------------------------- sequences

  /** Rows of packed sequences, as indices into the tables that their inputs come from. */
  private record Rows(
      float[] patches, int patchRows, int[] token, int[] patch, int[] position, int[] offsets) {
    /**
     * @param tokens for each sequence the tokens after its patches
     */
    static Rows of(List<Prompt> prompts, int[] promptOf, int[][] tokens) {
      int[] firstPatch = new int[prompts.size()];
      int patchRows = 0;
      int values = 0;
      for (int p = 0; p < firstPatch.length; p++) {
        firstPatch[p] = patchRows;
        patchRows += prompts.get(p).patchCount();
        values += prompts.get(p).patches().length;
      }
      float[] patches = new float[values];
      int at = 0;
      for (Prompt prompt : prompts) {
        System.arraycopy(prompt.patches(), 0, patches, at, prompt.patches().length);
        at += prompt.patches().length;
      }
      int[] offsets = new int[tokens.length + 1];
      for (int s = 0; s < tokens.length; s++) {
        offsets[s + 1] = offsets[s] + prompts.get(promptOf[s]).patchCount() + tokens[s].length;
      }
      int rows = offsets[tokens.length];
      int[] token = new int[rows];
      int[] patch = new int[rows];
      int[] position = new int[rows];
      for (int s = 0; s < tokens.length; s++) {
        int count = prompts.get(promptOf[s]).patchCount();
        for (int i = 0; i < offsets[s + 1] - offsets[s]; i++) {
          int row = offsets[s] + i;
          position[row] = i;
          token[row] = i < count ? -1 : tokens[s][i - count];
          patch[row] = i < count ? firstPatch[promptOf[s]] + i : -1;
        }
      }
      return new Rows(patches, patchRows, token, patch, position, offsets);
    }

    int count() {
      return token.length;
    }

    int longest() {
      int most = 0;
      for (int s = 0; s + 1 < offsets.length; s++) {
        most = Math.max(most, offsets[s + 1] - offsets[s]);
      }
      return most;
    }
  }

  private Rows rows(List<Prompt> prompts, int[] promptOf, int[][] tokens) {
    for (Prompt prompt : prompts) {
      int count = prompt.patchCount();
      if (prompt.patches().length != (long) count * config.patchSize()) {
        throw new IllegalArgumentException(
            "patches: expected "
                + config.patchSize()
                + " values each, got "
                + prompt.patches().length / count);
      }
    }
    for (int[] sequence : tokens) {
      for (int token : sequence) {
        if (token < 0 || token >= config.vocabulary()) {
          throw new IllegalArgumentException(
              "tokens: expected 0 to " + (config.vocabulary() - 1) + ", got " + token);
        }
      }
    }
    Rows rows = Rows.of(prompts, promptOf, tokens);
    requirePositions(rows.longest());
    return rows;
  }

  private void requirePositions(long length) {
    if (length > config.positions()) {
      throw new IllegalArgumentException(
          "sequence: expected at most " + config.positions() + " positions, got " + length);
    }
  }

  private void requireLayer(int layer) {
    if (layer < 0 || layer >= config.layers()) {
      throw new IllegalArgumentException(
          "layer: expected 0 to " + (config.layers() - 1) + ", got " + layer);
    }
  }

  private static int[][] inputTokens(Batch batch) {
    int[][] tokens = new int[batch.sequences()][];
    for (int s = 0; s < tokens.length; s++) {
      int[] question = batch.prompts().get(batch.promptOf(s)).question();
      int[] response = batch.response(s);
      tokens[s] = Arrays.copyOf(question, question.length + response.length - 1);
      System.arraycopy(response, 0, tokens[s], question.length, response.length - 1);
    }
    return tokens;
  }

  // --------------------------------------------------------------------------------------- forward

  /**
   * Packed sequences on the device.
   *
   * @param patches null where there are none, as {@code patch}
   * @param rowIndex rows that logits are wanted for
   * @param offsetsQ how rowIndex is cut into sequences; null where nobody asks
   */
  private record Packed(
      TransformerConfig config,
      Tensor token,
      Tensor patches,
      Tensor patch,
      Tensor position,
      Tensor offsets,
      long longest,
      Tensor rowIndex,
      Tensor offsetsQ)
      implements Inputs {}

  private Packed upload(Scope scope, Rows rows, int[] rowIndex, int[] offsetsQ) {
    boolean images = rows.patchRows > 0;
    return new Packed(
        config,
        Tensor.of(scope, rows.token),
        images ? Tensor.of(scope, rows.patches, rows.patchRows, config.patchSize()) : null,
        images ? Tensor.of(scope, rows.patch) : null,
        Tensor.of(scope, rows.position),
        Tensor.of(scope, rows.offsets),
        rows.longest(),
        Tensor.of(scope, rowIndex),
        offsetsQ == null ? null : Tensor.of(scope, offsetsQ));
  }

  private Tensor embed(Scope scope, Packed in) {
    Tensor x = GatherRows.gather(scope, token.value(), in.token);
    if (in.patches != null) {
      Tensor projected = Gemm.multiply(scope, in.patches, patch.value(), plain);
      GatherRows.gather(context, projected, in.patch, null, true, x);
    }
    GatherRows.gather(context, position.value(), in.position, null, true, x);
    return x;
  }

  /** Activations of one layer that its gradient needs. */
  private record Layer(
      Tensor x,
      RmsNorm.Outputs norm1,
      Tensor qkv,
      Tensor o,
      Tensor lse,
      Tensor x2,
      RmsNorm.Outputs norm2,
      Tensor gateUp,
      Tensor y,
      Tensor out) {}

  private Tensor queries(Tensor qkv) {
    return heads(qkv, 0, config.heads());
  }

  private Tensor keys(Tensor qkv) {
    return heads(qkv, config.heads(), config.kvHeads());
  }

  private Tensor values(Tensor qkv) {
    return heads(qkv, config.heads() + config.kvHeads(), config.kvHeads());
  }

  private Tensor heads(Tensor qkv, int first, int count) {
    return columnsOf(qkv, first, count).reshape(qkv.shape(0), count, config.headDim());
  }

  private Tensor columnsOf(Tensor qkv, int first, int count) {
    return qkv.columns((long) first * config.headDim(), (long) (first + count) * config.headDim());
  }

  private float scale() {
    return (float) (1 / Math.sqrt(config.headDim()));
  }

  /** How a layer attends: fills o from qkv, and lse where it is not null. */
  private interface Attend {
    void apply(Tensor qkv, Tensor o, Tensor lse);
  }

  private Layer layer(Scope scope, Block block, Tensor x, Attend attend) {
    long rows = x.shape(0);
    RmsNorm.Outputs norm1 = RmsNorm.forward(scope, x, block.attentionNorm.value(), EPS);
    Tensor qkv = Gemm.multiply(scope, norm1.y(), block.qkv.value(), plain);
    Tensor o = Tensor.empty(scope, DType.F32, rows, (long) config.heads() * config.headDim());
    Tensor lse = Tensor.empty(scope, DType.F32, config.heads(), rows);
    attend.apply(qkv, o.reshape(rows, config.heads(), config.headDim()), lse);
    Tensor x2 = Tensor.empty(scope, DType.F32, x.shape()).copyFrom(x);
    Gemm.multiply(context, o, block.output.value(), add, x2);
    RmsNorm.Outputs norm2 = RmsNorm.forward(scope, x2, block.feedForwardNorm.value(), EPS);
    Tensor gateUp = Gemm.multiply(scope, norm2.y(), block.gateUp.value(), plain);
    Tensor y = SwiGlu.forward(scope, gateUp);
    Tensor out = Tensor.empty(scope, DType.F32, x.shape()).copyFrom(x2);
    Gemm.multiply(context, y, block.down.value(), add, out);
    return new Layer(x, norm1, qkv, o, lse, x2, norm2, gateUp, y, out);
  }

  private Attention.Input attentionInput(Tensor qkv, Tensor offsets, long longest) {
    return new Attention.Input(
        queries(qkv), keys(qkv), values(qkv), offsets, offsets, null, longest, scale(), precision);
  }

  private final class Pass implements Activations {
    final Packed in;
    final List<Layer> layers = new ArrayList<>();
    final Tensor gathered;
    final RmsNorm.Outputs norm;
    final Tensor logits;
    final Map<Integer, AttentionPolicy.Input> attention = new HashMap<>();

    Pass(Scope scope, Packed in) {
      this.in = in;
      Tensor x = embed(scope, in);
      for (Block block : blocks) {
        Layer layer =
            layer(
                scope,
                block,
                x,
                (qkv, o, lse) ->
                    Attention.forward(
                        context, attentionInput(qkv, in.offsets, in.longest), o, lse));
        layers.add(layer);
        x = layer.out;
      }
      gathered = GatherRows.gather(scope, x, in.rowIndex);
      norm = RmsNorm.forward(scope, gathered, finalNorm.value(), EPS);
      logits = Gemm.multiply(scope, norm.y(), head.value(), plain);
    }

    Transformer model() {
      return Transformer.this;
    }

    @Override
    public Tensor logits() {
      return logits;
    }

    @Override
    public AttentionPolicy.Input attention(int layer) {
      AttentionPolicy.Input input = attention.get(layer);
      if (input == null) {
        throw new IllegalArgumentException(
            "layer: expected one that forward was asked for, "
                + attention.keySet()
                + ", got "
                + layer);
      }
      return input;
    }
  }

  @Override
  public Inputs prepare(Scope scope, Batch batch) {
    int[] promptOf = new int[batch.sequences()];
    Arrays.setAll(promptOf, batch::promptOf);
    Rows rows = rows(batch.prompts(), promptOf, inputTokens(batch));
    int[] responseOffsets = batch.responseOffsets();
    int[] rowIndex = new int[batch.responseRows()];
    for (int s = 0; s < batch.sequences(); s++) {
      int count = responseOffsets[s + 1] - responseOffsets[s];
      for (int i = 0; i < count; i++) {
        rowIndex[responseOffsets[s] + i] = rows.offsets[s + 1] - count + i;
      }
    }
    return upload(scope, rows, rowIndex, responseOffsets);
  }

  @Override
  public Activations forward(Scope scope, Inputs inputs, int... attentionLayers) {
    if (!(inputs instanceof Packed in && in.config.equals(config))) {
      throw new IllegalArgumentException(
          "inputs: expected those of a model of this architecture, got others");
    }
    for (int layer : attentionLayers) {
      requireLayer(layer);
    }
    Pass pass = new Pass(scope, in);
    for (int layer : attentionLayers) {
      Tensor qkv = pass.layers.get(layer).qkv;
      Tensor q = GatherRows.gather(scope, columnsOf(qkv, 0, config.heads()), in.rowIndex);
      pass.attention.put(
          layer,
          new AttentionPolicy.Input(
              q.reshape(q.shape(0), config.heads(), config.headDim()),
              keys(qkv),
              in.offsetsQ,
              in.offsets,
              in.longest,
              null));
    }
    return pass;
  }

  // -------------------------------------------------------------------------------------- backward

  @Override
  public void backward(
      Activations activations, Tensor dLogits, List<AttentionGradient> attention, Probe probe) {
    if (!(activations instanceof Pass pass && pass.model() == this)) {
      throw new IllegalArgumentException("activations: expected those of this model, got others");
    }
    for (AttentionGradient gradient : attention) {
      requireLayer(gradient.layer());
    }
    try (Scope scope = context.scope()) {
      Gemm.multiply(context, pass.norm.y(), dLogits, weightGradient, head.gradient());
      Tensor dNorm = Gemm.multiply(scope, dLogits, head.value(), timesTransposed);
      Tensor dGathered = Tensor.empty(scope, DType.F32, pass.gathered.shape());
      normBackward(pass.gathered, finalNorm, pass.norm, dNorm, false, dGathered);
      Packed in = pass.in;
      Tensor dx = Tensor.zeros(scope, DType.F32, in.token.shape(0), config.width());
      GatherRows.gather(context, dGathered, null, in.rowIndex, false, dx);
      for (int l = blocks.size() - 1; l >= 0; l--) {
        try (Scope inner = context.scope()) {
          layerBackward(inner, pass, l, dx, attention, probe);
        }
      }
      ScatterAddRows.add(context, dx, in.position, position.gradient());
      ScatterAddRows.add(context, dx, in.token, token.gradient());
      if (in.patches != null) {
        Tensor dPatch = Tensor.zeros(scope, DType.F32, in.patches.shape(0), config.width());
        ScatterAddRows.add(context, dx, in.patch, dPatch);
        Gemm.multiply(context, in.patches, dPatch, weightGradient, patch.gradient());
      }
    }
  }

  /** dx is the gradient of the layer's output and becomes that of its input. */
  private void layerBackward(
      Scope scope, Pass pass, int l, Tensor dx, List<AttentionGradient> attention, Probe probe) {
    Block block = blocks.get(l);
    Layer layer = pass.layers.get(l);
    long rows = dx.shape(0);

    Gemm.multiply(context, layer.y, dx, weightGradient, block.down.gradient());
    Tensor dy = Gemm.multiply(scope, dx, block.down.value(), timesTransposed);
    Tensor dGateUp = Tensor.empty(scope, DType.F32, layer.gateUp.shape());
    SwiGlu.backward(context, layer.gateUp, dy, dGateUp);
    Gemm.multiply(context, layer.norm2.y(), dGateUp, weightGradient, block.gateUp.gradient());
    Tensor dNorm2 = Gemm.multiply(scope, dGateUp, block.gateUp.value(), timesTransposed);
    normBackward(layer.x2, block.feedForwardNorm, layer.norm2, dNorm2, true, dx);

    Gemm.multiply(context, layer.o, dx, weightGradient, block.output.gradient());
    Tensor dO = Gemm.multiply(scope, dx, block.output.value(), timesTransposed);
    Tensor dQkv = Tensor.empty(scope, DType.F32, layer.qkv.shape());
    Attention.backward(
        context,
        attentionInput(layer.qkv, pass.in.offsets, pass.in.longest),
        layer.o.reshape(rows, config.heads(), config.headDim()),
        layer.lse,
        dO.reshape(rows, config.heads(), config.headDim()),
        queries(dQkv),
        keys(dQkv),
        values(dQkv));
    for (AttentionGradient gradient : attention) {
      if (gradient.layer() == l) {
        Tensor dq = gradient.dq();
        GatherRows.gather(
            context,
            dq.reshape(dq.shape(0), (long) config.heads() * config.headDim()),
            null,
            pass.in.rowIndex,
            true,
            columnsOf(dQkv, 0, config.heads()));
        Axpby.apply(
            context,
            1,
            gradient.dk().reshape(rows, (long) config.kvHeads() * config.headDim()),
            1,
            columnsOf(dQkv, config.heads(), config.kvHeads()));
      }
    }
    if (probe != null) {
      probe.attention(
          l, columnsOf(dQkv, 0, config.heads()), columnsOf(dQkv, config.heads(), config.kvHeads()));
    }
    Gemm.multiply(context, layer.norm1.y(), dQkv, weightGradient, block.qkv.gradient());
    Tensor dNorm1 = Gemm.multiply(scope, dQkv, block.qkv.value(), timesTransposed);
    normBackward(layer.x, block.attentionNorm, layer.norm1, dNorm1, true, dx);
  }

  private void normBackward(
      Tensor x, Parameter weight, RmsNorm.Outputs norm, Tensor dy, boolean accumulate, Tensor dx) {
    RmsNorm.backward(
        context, x, weight.value(), norm.rstd(), dy, accumulate, dx, weight.gradient());
  }

  // -------------------------------------------------------------------------------------- sampling

  /** Keys and values of growing sequences, one region of fixed capacity each, for every layer. */
  private final class Cache {
    final List<Tensor> keys = new ArrayList<>();
    final List<Tensor> values = new ArrayList<>();
    final int[] offsets;
    final int[] lengths;
    final long capacity;

    Cache(Scope scope, int[] promptLengths, int[] promptOf, int room) {
      offsets = new int[promptOf.length + 1];
      lengths = new int[promptOf.length];
      int most = 0;
      for (int s = 0; s < promptOf.length; s++) {
        lengths[s] = promptLengths[promptOf[s]];
        offsets[s + 1] = offsets[s] + lengths[s] + room;
        most = Math.max(most, lengths[s] + room);
      }
      capacity = most;
      long width = (long) config.kvHeads() * config.headDim();
      for (int l = 0; l < config.layers(); l++) {
        keys.add(Tensor.empty(scope, DType.F32, offsets[promptOf.length], width));
        values.add(Tensor.empty(scope, DType.F32, offsets[promptOf.length], width));
      }
    }

    /** Copies rows of a layer's keys and values in. */
    void write(int layer, Tensor qkv, Tensor index, Tensor outIndex) {
      int h = config.heads();
      int kv = config.kvHeads();
      GatherRows.gather(context, columnsOf(qkv, h, kv), index, outIndex, false, keys.get(layer));
      GatherRows.gather(
          context, columnsOf(qkv, h + kv, kv), index, outIndex, false, values.get(layer));
    }
  }

  @Override
  public int[][] sample(List<Prompt> prompts, int group, Sampling sampling) {
    if (group < 0) {
      throw new IllegalArgumentException("group: expected at least 0, got " + group);
    }
    if (sampling.maxTokens() < 1) {
      throw new IllegalArgumentException(
          "maxTokens: expected at least 1, got " + sampling.maxTokens());
    }
    int count = Math.multiplyExact(prompts.size(), group);
    if (count == 0) {
      return new int[0][];
    }
    int[] promptOf = new int[count];
    Arrays.setAll(promptOf, s -> s / group);
    int[][] questions = new int[prompts.size()][];
    int[] own = new int[prompts.size()];
    for (int p = 0; p < questions.length; p++) {
      questions[p] = prompts.get(p).question();
      own[p] = p;
    }
    int[][] drawn = new int[sampling.maxTokens()][count];
    try (Scope scope = context.scope()) {
      Rows rows = rows(prompts, own, questions);
      requirePositions(rows.longest() + sampling.maxTokens() - 1L);
      int[] lastRows = new int[prompts.size()];
      Arrays.setAll(lastRows, p -> rows.offsets[p + 1] - 1);
      int[] promptLengths = new int[prompts.size()];
      Arrays.setAll(promptLengths, p -> rows.offsets[p + 1] - rows.offsets[p]);
      Cache cache = new Cache(scope, promptLengths, promptOf, sampling.maxTokens());
      Tensor logits;
      try (Scope prefill = context.scope()) {
        Pass pass = new Pass(prefill, upload(prefill, rows, lastRows, null));
        fill(prefill, cache, pass, rows, promptOf);
        logits = GatherRows.gather(scope, pass.logits, Tensor.of(prefill, promptOf));
      }
      Growth growth = new Growth(scope, cache, sampling.maxTokens());
      Tensor tokens = Tensor.empty(scope, DType.I32, sampling.maxTokens(), count);
      // On the CPU a look costs nothing; on a GPU it waits for all that was launched.
      int unseen = context.device().kind() == Device.Kind.CPU ? 1 : UNSEEN;
      boolean[] ended = new boolean[count];
      int open = count;
      int seen = 0;
      for (int step = 0; ; step++) {
        Tensor next = tokens.rows(step, step + 1).reshape(count);
        SampleTokens.sample(
            context,
            logits,
            null,
            new SampleTokens.Options(
                sampling.temperature(),
                sampling.seed(),
                sampling.offset() * sampling.maxTokens() + step),
            next);
        boolean last = step + 1 == sampling.maxTokens();
        if (last || step + 1 - seen == unseen) {
          int[] fresh = tokens.rows(seen, step + 1).toInts();
          for (int i = 0; i < fresh.length; i++) {
            int s = i % count;
            drawn[seen + i / count][s] = fresh[i];
            if (!ended[s] && fresh[i] == sampling.stopToken()) {
              ended[s] = true;
              open--;
            }
          }
          seen = step + 1;
        }
        if (open == 0 || last) {
          break;
        }
        decode(cache, growth, step, next, logits);
      }
    }
    return responses(drawn, count, sampling.stopToken());
  }

  private void fill(Scope scope, Cache cache, Pass pass, Rows rows, int[] promptOf) {
    int total = 0;
    for (int p : promptOf) {
      total += rows.offsets[p + 1] - rows.offsets[p];
    }
    int[] from = new int[total];
    int[] to = new int[total];
    int n = 0;
    for (int s = 0; s < promptOf.length; s++) {
      int begin = rows.offsets[promptOf[s]];
      for (int i = 0; i < cache.lengths[s]; i++, n++) {
        from[n] = begin + i;
        to[n] = cache.offsets[s] + i;
      }
    }
    Tensor index = Tensor.of(scope, from);
    Tensor outIndex = Tensor.of(scope, to);
    for (int l = 0; l < config.layers(); l++) {
      cache.write(l, pass.layers.get(l).qkv, index, outIndex);
    }
  }

  /** Where the tokens that are drawn go: a row for each token of every sequence. */
  private final class Growth {
    final Tensor positions;
    final Tensor at;
    final Tensor lengths;
    final Tensor offsetsQ;
    final Tensor offsetsK;

    Growth(Scope scope, Cache cache, int steps) {
      int count = cache.lengths.length;
      int[][] rows = new int[3][Math.multiplyExact(steps, count)];
      for (int i = 0; i < rows[0].length; i++) {
        int s = i % count;
        int position = cache.lengths[s] + i / count;
        rows[0][i] = position;
        rows[1][i] = cache.offsets[s] + position;
        rows[2][i] = position + 1;
      }
      int[] one = new int[count + 1];
      Arrays.setAll(one, s -> s);
      positions = Tensor.of(scope, rows[0], steps, count);
      at = Tensor.of(scope, rows[1], steps, count);
      lengths = Tensor.of(scope, rows[2], steps, count);
      offsetsQ = Tensor.of(scope, one);
      offsetsK = Tensor.of(scope, cache.offsets);
    }

    Tensor row(Tensor rows, int step) {
      return rows.rows(step, step + 1).reshape(rows.shape(1));
    }
  }

  /**
   * Adds token {@code step} to every sequence: the logits of the next go to {@code logits}.
   *
   * @param tokens i32[sequences]
   */
  private void decode(Cache cache, Growth growth, int step, Tensor tokens, Tensor logits) {
    int count = cache.lengths.length;
    try (Scope scope = context.scope()) {
      Tensor x = GatherRows.gather(scope, token.value(), tokens);
      Tensor positions = growth.row(growth.positions, step);
      GatherRows.gather(context, position.value(), positions, null, true, x);
      Tensor outIndex = growth.row(growth.at, step);
      Tensor lengths = growth.row(growth.lengths, step);
      for (int l = 0; l < config.layers(); l++) {
        int layer = l;
        x =
            layer(
                    scope,
                    blocks.get(l),
                    x,
                    (qkv, o, lse) -> {
                      cache.write(layer, qkv, null, outIndex);
                      long rows = cache.offsets[count];
                      Attention.forward(
                          context,
                          new Attention.Input(
                              queries(qkv),
                              cache
                                  .keys
                                  .get(layer)
                                  .reshape(rows, config.kvHeads(), config.headDim()),
                              cache
                                  .values
                                  .get(layer)
                                  .reshape(rows, config.kvHeads(), config.headDim()),
                              growth.offsetsQ,
                              growth.offsetsK,
                              lengths,
                              cache.capacity,
                              scale(),
                              precision),
                          o,
                          lse);
                    })
                .out;
      }
      RmsNorm.Outputs norm = RmsNorm.forward(scope, x, finalNorm.value(), EPS);
      Gemm.multiply(context, norm.y(), head.value(), plain, logits);
    }
  }

  private static int[][] responses(int[][] drawn, int count, int stopToken) {
    int[][] responses = new int[count][];
    for (int s = 0; s < count; s++) {
      int length = 0;
      while (length < drawn.length) {
        length++;
        if (drawn[length - 1][s] == stopToken) {
          break;
        }
      }
      responses[s] = new int[length];
      for (int i = 0; i < length; i++) {
        responses[s][i] = drawn[i][s];
      }
    }
    return responses;
  }
}
