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
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.UnaryOperator;

/**
 * A small multimodal policy: a decoder-only transformer over [image patches | question | response],
 * causal, pre-norm with RMSNorm, learned positions, grouped-query attention, SwiGLU, no biases,
 * f32.
 *
 * <p>Needs a context with a provider of matrix products. Used by one thread at a time.
 */
public final class Transformer implements PolicyModel {
  private static final float EPS = 1e-6f;

  /** Elements. */
  private static final long ALIGNED = 64;

  private final Context context;
  private final TransformerConfig config;
  private final Precision precision;
  private final Gemm.Options plain;
  private final Gemm.Options timesTransposed;
  private final Gemm.Options weightGradient;
  private final Scope scope;
  private final Replays replays;

  /** Of all parameters, one after another, so that one call copies or clears them. */
  private final Tensor values;

  private final Tensor gradients;
  private final List<Parameter> parameters = new ArrayList<>();
  private final Parameter patch;
  private final Parameter token;
  private final Parameter position;
  private final List<Block> blocks = new ArrayList<>();
  private final Parameter finalNorm;
  private final Parameter head;

  /** What {@link #load} brought last; null before. */
  private Images images;

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
    timesTransposed = plain.withTransB(true);
    weightGradient = plain.withTransA(true).withBeta(1);
    this.scope = context.scope();
    this.replays = new Replays(context);
    Map<String, long[]> shapes = shapes(config);
    long size = shapes.values().stream().mapToLong(Transformer::room).sum();
    values = Tensor.zeros(scope, DType.F32, size);
    gradients = Tensor.zeros(scope, DType.F32, size);
    long at = 0;
    for (Map.Entry<String, long[]> entry : shapes.entrySet()) {
      long[] shape = entry.getValue();
      parameters.add(
          new Parameter(
              entry.getKey(),
              part(values, at, shape),
              part(gradients, at, shape),
              shape.length > 1));
      at += room(shape);
    }
    patch = parameter("patch");
    token = parameter("token");
    position = parameter("position");
    for (int l = 0; l < config.layers(); l++) {
      blocks.add(
          new Block(
              parameter(name(l, "attention_norm")),
              parameter(name(l, "qkv")),
              parameter(name(l, "output")),
              parameter(name(l, "feed_forward_norm")),
              parameter(name(l, "gate_up")),
              parameter(name(l, "down"))));
    }
    finalNorm = parameter("final_norm");
    head = parameter("head");
  }

  /** Of the parameters, in their order. */
  private static Map<String, long[]> shapes(TransformerConfig config) {
    long d = config.width();
    Map<String, long[]> shapes = new LinkedHashMap<>();
    shapes.put("patch", new long[] {config.patchSize(), d});
    shapes.put("token", new long[] {config.vocabulary(), d});
    shapes.put("position", new long[] {config.positions(), d});
    for (int l = 0; l < config.layers(); l++) {
      shapes.put(name(l, "attention_norm"), new long[] {d});
      shapes.put(name(l, "qkv"), new long[] {d, config.qkvWidth()});
      shapes.put(name(l, "output"), new long[] {(long) config.heads() * config.headDim(), d});
      shapes.put(name(l, "feed_forward_norm"), new long[] {d});
      shapes.put(name(l, "gate_up"), new long[] {d, 2L * config.hidden()});
      shapes.put(name(l, "down"), new long[] {config.hidden(), d});
    }
    shapes.put("final_norm", new long[] {d});
    shapes.put("head", new long[] {d, config.vocabulary()});
    return shapes;
  }

  private static String name(int layer, String parameter) {
    return "layer" + layer + "." + parameter;
  }

  private static long size(long[] shape) {
    return Arrays.stream(shape).reduce(1, Math::multiplyExact);
  }

  /** Elements that a parameter takes up: the next one is aligned as if it were alone. */
  private static long room(long[] shape) {
    return (size(shape) + ALIGNED - 1) / ALIGNED * ALIGNED;
  }

  private static Tensor part(Tensor of, long at, long[] shape) {
    return of.rows(at, at + size(shape)).reshape(shape);
  }

  private Parameter parameter(String name) {
    return parameters.stream().filter(p -> p.name().equals(name)).findFirst().orElseThrow();
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

  /** Of the products of matrices. */
  public Precision precision() {
    return precision;
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
  public void copyFrom(PolicyModel other) {
    if (other instanceof Transformer model && model.config.equals(config)) {
      values.copyFrom(model.values);
    } else {
      PolicyModel.super.copyFrom(other);
    }
  }

  @Override
  public void clearGradients() {
    gradients.zero();
  }

  @Override
  public void close() {
    replays.close();
    scope.close();
  }

  // ------------------------------------------------------------------------------------- sequences

  /**
   * Rows of packed sequences, as indices into the tables that their inputs come from; -1 in rows
   * beyond the end of a sequence.
   */
  private record Rows(int[] token, int[] patch, int[] position) {
    /**
     * @param imageOf for each sequence the prompt whose patches it begins with, or -1
     * @param begin for each sequence the position of its first row
     * @param tokens for each sequence the tokens after its patches
     * @param offsets first row of each sequence, and the end
     */
    static Rows of(
        List<Prompt> prompts, int[] imageOf, int[] begin, int[][] tokens, int[] offsets) {
      int[] firstPatch = new int[prompts.size()];
      for (int p = 1; p < firstPatch.length; p++) {
        firstPatch[p] = firstPatch[p - 1] + prompts.get(p - 1).patchCount();
      }
      int rows = offsets[tokens.length];
      int[] token = new int[rows];
      int[] patch = new int[rows];
      int[] position = new int[rows];
      Arrays.fill(token, -1);
      Arrays.fill(patch, -1);
      Arrays.fill(position, -1);
      for (int s = 0; s < tokens.length; s++) {
        int count = imageOf[s] < 0 ? 0 : prompts.get(imageOf[s]).patchCount();
        for (int i = 0; i < count + tokens[s].length; i++) {
          int row = offsets[s] + i;
          position[row] = begin[s] + i;
          if (i < count) {
            patch[row] = firstPatch[imageOf[s]] + i;
          } else {
            token[row] = tokens[s][i - count];
          }
        }
      }
      return new Rows(token, patch, position);
    }
  }

  private Rows rows(
      List<Prompt> prompts, int[] imageOf, int[] begin, int[][] tokens, int[] offsets) {
    requirePatches(prompts);
    for (int s = 0; s < tokens.length; s++) {
      int patches = imageOf[s] < 0 ? 0 : prompts.get(imageOf[s]).patchCount();
      requirePositions(begin[s] + (long) patches + tokens[s].length);
      for (int token : tokens[s]) {
        if (token < 0 || token >= config.vocabulary()) {
          throw new IllegalArgumentException(
              "tokens: expected 0 to " + (config.vocabulary() - 1) + ", got " + token);
        }
      }
    }
    return Rows.of(prompts, imageOf, begin, tokens, offsets);
  }

  private void requirePatches(List<Prompt> prompts) {
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

  /** The tokens that follow a prompt: a response without its last. */
  private static int[] followers(Batch batch, int s) {
    return Arrays.copyOf(batch.response(s), batch.response(s).length - 1);
  }

  private static int[] join(int[] a, int[] b) {
    int[] both = Arrays.copyOf(a, a.length + b.length);
    System.arraycopy(b, 0, both, a.length, b.length);
    return both;
  }

  // --------------------------------------------------------------------------------------- forward

  /**
   * Tables of indices that came to the device together, i32.
   *
   * @param all one after another
   * @param ends of each
   */
  private record Tables(Tensor all, List<Integer> ends) {
    static Tables of(Scope scope, int[]... tables) {
      int[] all =
          new int[Arrays.stream(tables).mapToInt(table -> table.length).reduce(0, Math::addExact)];
      List<Integer> ends = new ArrayList<>();
      int end = 0;
      for (int[] table : tables) {
        System.arraycopy(table, 0, all, end, table.length);
        end += table.length;
        ends.add(end);
      }
      return new Tables(Tensor.of(scope, all), List.copyOf(ends));
    }

    Tables with(UnaryOperator<Tensor> tensors) {
      return new Tables(tensors.apply(all), ends);
    }

    Tensor get(int table) {
      return all.rows(table == 0 ? 0 : ends.get(table - 1), ends.get(table));
    }

    /** A row of a table of {@code rows} rows. */
    Tensor row(int table, int rows, int row) {
      Tensor whole = get(table);
      long width = whole.shape(0) / rows;
      return whole.rows(row * width, (row + 1) * width);
    }
  }

  /**
   * Packed sequences on the device.
   *
   * @param tables {@link #token} and what follows
   * @param patches null where there are none
   * @param longest keys of the longest sequence
   * @param first key of the first sequence
   * @param shares whether responses share the rows of their prompts: then rows are those of every
   *     prompt once, and those of the responses. Attention is over pieces: of a prompt its rows as
   *     queries and keys; of a response its own rows as queries, and as keys a copy of those of the
   *     whole sequence. Else rows are those of the sequences, one after another
   */
  private record Packed(
      TransformerConfig config,
      Tables tables,
      Tensor patches,
      long longest,
      long first,
      boolean shares)
      implements Inputs {
    @Override
    public Packed with(UnaryOperator<Tensor> tensors) {
      return new Packed(
          config, tables.with(tensors), tensors.apply(patches), longest, first, shares);
    }

    @Override
    public Object layout() {
      return List.of(tables.ends, longest, first, shares);
    }

    /** Of each row. */
    Tensor token() {
      return tables.get(0);
    }

    /** Of each row, of {@link #patches}. */
    Tensor patch() {
      return tables.get(1);
    }

    /** Of each row. */
    Tensor position() {
      return tables.get(2);
    }

    /** First key of each sequence, and the end. */
    Tensor offsets() {
      return tables.get(3);
    }

    /** Rows that logits are wanted for. */
    Tensor rowIndex() {
      return tables.get(4);
    }

    /** How {@link #rowIndex} is cut into sequences. */
    Tensor offsetsQ() {
      return tables.get(5);
    }

    /** The row that each key is of, or -1: of the prompts, then of the sequences. */
    Tensor keyRows() {
      return tables.get(6);
    }

    /** Of the pieces of attention, as {@link #piecesK}. */
    Tensor piecesQ() {
      return shares ? tables.get(7) : offsets();
    }

    Tensor piecesK() {
      return shares ? tables.get(8) : offsets();
    }
  }

  /**
   * Patches of prompts on the device; null for no patches.
   *
   * @param prompts that they are of
   */
  private record Images(List<Prompt> prompts, Tensor patches) {
    /** Where some prompts, the very same and in the same order, begin; -1: not all are here. */
    int find(List<Prompt> others) {
      for (int at = 0; at + others.size() <= prompts.size(); at++) {
        int same = 0;
        while (same < others.size() && prompts.get(at + same) == others.get(same)) {
          same++;
        }
        if (same == others.size()) {
          return at;
        }
      }
      return -1;
    }
  }

  private static int patchRows(List<Prompt> prompts) {
    return prompts.stream().mapToInt(Prompt::patchCount).sum();
  }

  @Override
  public void load(Scope scope, List<Prompt> prompts) {
    requirePatches(prompts);
    images = new Images(List.copyOf(prompts), upload(scope, prompts));
  }

  private Tensor upload(Scope scope, List<Prompt> prompts) {
    int rows = patchRows(prompts);
    if (rows == 0) {
      return null;
    }
    float[] patches = new float[Math.multiplyExact(rows, config.patchSize())];
    int at = 0;
    for (Prompt prompt : prompts) {
      System.arraycopy(prompt.patches(), 0, patches, at, prompt.patches().length);
      at += prompt.patches().length;
    }
    return Tensor.of(scope, patches, rows, config.patchSize());
  }

  /** Those that are there, or new ones. */
  private Tensor patches(Scope scope, List<Prompt> prompts) {
    if (images != null && images.patches != null && images.patches.isOpen()) {
      int at = images.find(prompts);
      int rows = patchRows(prompts);
      long first = at < 0 ? 0 : patchRows(images.prompts.subList(0, at));
      // Matrices that are less aligned than others are multiplied by other kernels, to other bits.
      boolean isAligned = first * config.patchSize() * Float.BYTES % 16 == 0;
      if (at >= 0 && rows > 0 && isAligned) {
        return images.patches.rows(first, first + rows);
      }
    }
    return upload(scope, prompts);
  }

  private Tensor embed(Scope scope, Packed in) {
    Tensor x = GatherRows.gather(scope, token.value(), in.token());
    if (in.patches != null) {
      Tensor projected = Gemm.multiply(scope, in.patches, patch.value(), plain);
      GatherRows.gather(context, projected, in.patch(), null, true, x);
    }
    GatherRows.gather(context, position.value(), in.position(), null, true, x);
    return x;
  }

  /**
   * Activations of one layer that its gradient needs.
   *
   * @param out what it gives, but for x2, which the next norm adds
   */
  private record Layer(
      Tensor x,
      RmsNorm.Outputs norm1,
      Tensor qkv,
      Tensor kv,
      Tensor o,
      Tensor lse,
      Tensor x2,
      RmsNorm.Outputs norm2,
      Tensor gateUp,
      Tensor y,
      Tensor out) {}

  private Tensor queries(Tensor qkv) {
    return heads(columnsOf(qkv, 0, config.heads()));
  }

  /** Keys and values side by side. */
  private Tensor keysAndValues(Tensor qkv) {
    return columnsOf(qkv, config.heads(), 2 * config.kvHeads());
  }

  private Tensor keys(Tensor kv) {
    return heads(columnsOf(kv, 0, config.kvHeads()));
  }

  private Tensor values(Tensor kv) {
    return heads(columnsOf(kv, config.kvHeads(), config.kvHeads()));
  }

  private Tensor heads(Tensor rows) {
    return rows.reshape(rows.shape(0), rows.shape(1) / config.headDim(), config.headDim());
  }

  private Tensor columnsOf(Tensor rows, int first, int count) {
    return rows.columns((long) first * config.headDim(), (long) (first + count) * config.headDim());
  }

  private float scale() {
    return (float) (1 / Math.sqrt(config.headDim()));
  }

  /** How a layer attends: fills o and lse from qkv, and gives the keys and values. */
  private interface Attend {
    Tensor apply(Tensor qkv, Tensor o, Tensor lse);
  }

  /**
   * @param x input, in and out: residual is added to it; at the bottom the embeddings
   * @param residual null at the bottom
   */
  private Layer layer(Scope scope, Block block, Tensor x, Tensor residual, Attend attend) {
    long rows = x.shape(0);
    RmsNorm.Outputs norm1 = RmsNorm.forward(scope, x, residual, block.attentionNorm.value(), EPS);
    Tensor qkv = Gemm.multiply(scope, norm1.y(), block.qkv.value(), plain);
    Tensor o = Tensor.empty(scope, DType.F32, rows, (long) config.heads() * config.headDim());
    Tensor lse = Tensor.empty(scope, DType.F32, config.heads(), rows);
    Tensor kv = attend.apply(qkv, heads(o), lse);
    Tensor x2 = Gemm.multiply(scope, o, block.output.value(), plain);
    RmsNorm.Outputs norm2 = RmsNorm.forward(scope, x2, x, block.feedForwardNorm.value(), EPS);
    Tensor gateUp = Gemm.multiply(scope, norm2.y(), block.gateUp.value(), plain);
    Tensor y = SwiGlu.forward(scope, gateUp);
    Tensor out = Gemm.multiply(scope, y, block.down.value(), plain);
    return new Layer(x, norm1, qkv, kv, o, lse, x2, norm2, gateUp, y, out);
  }

  private Attention.Input attentionInput(Packed in, Tensor qkv, Tensor kv) {
    return new Attention.Input(
        queries(qkv),
        keys(kv),
        values(kv),
        in.piecesQ(),
        in.piecesK(),
        null,
        in.longest,
        scale(),
        precision);
  }

  private Tensor attend(Scope scope, Packed in, Tensor qkv, Tensor o, Tensor lse) {
    Tensor kv = keysAndValues(qkv);
    if (in.shares) {
      kv = GatherRows.gather(scope, kv, in.keyRows());
    }
    Attention.forward(context, attentionInput(in, qkv, kv), o, lse);
    return kv;
  }

  /** Of keys, or their gradients, those of the sequences. */
  private static Tensor ofSequences(Packed in, Tensor kv) {
    return in.shares ? kv.rows(in.first, kv.shape(0)) : kv;
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
      Tensor residual = null;
      for (Block block : blocks) {
        Layer layer =
            layer(scope, block, x, residual, (qkv, o, lse) -> attend(scope, in, qkv, o, lse));
        layers.add(layer);
        x = layer.out;
        residual = layer.x2;
      }
      gathered = GatherRows.gather(scope, x, in.rowIndex());
      if (residual != null) {
        GatherRows.gather(context, residual, in.rowIndex(), null, true, gathered);
      }
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
    boolean shares = Arrays.stream(promptOf).distinct().count() < promptOf.length;
    return shares ? prepareShared(scope, batch) : prepareAlone(scope, batch, promptOf);
  }

  /** Every sequence has a prompt of its own. */
  private Packed prepareAlone(Scope scope, Batch batch, int[] promptOf) {
    int[][] tokens = new int[promptOf.length][];
    Arrays.setAll(
        tokens, s -> join(batch.prompts().get(promptOf[s]).question(), followers(batch, s)));
    int[] offsets = batch.offsets();
    int[] responseOffsets = batch.responseOffsets();
    int[] rowIndex = new int[batch.responseRows()];
    for (int s = 0; s < promptOf.length; s++) {
      for (int i = responseOffsets[s]; i < responseOffsets[s + 1]; i++) {
        rowIndex[i] = offsets[s + 1] - responseOffsets[s + 1] + i;
      }
    }
    Rows rows = rows(batch.prompts(), promptOf, new int[promptOf.length], tokens, offsets);
    return new Packed(
        config,
        Tables.of(scope, rows.token, rows.patch, rows.position, offsets, rowIndex, responseOffsets),
        patches(scope, batch.prompts()),
        batch.longest(),
        0,
        false);
  }

  /** The rows of a prompt are computed once, however many responses it has. */
  private Packed prepareShared(Scope scope, Batch batch) {
    int prompts = batch.prompts().size();
    int pieces = prompts + batch.sequences();
    int[] imageOf = new int[pieces];
    int[] begin = new int[pieces];
    int[][] tokens = new int[pieces][];
    int[] offsets = new int[pieces + 1];
    Batch.Room room = batch.room();
    for (int i = 0; i < pieces; i++) {
      int s = i - prompts;
      Prompt prompt = batch.prompts().get(s < 0 ? i : batch.promptOf(s));
      imageOf[i] = s < 0 ? i : -1;
      begin[i] = s < 0 ? 0 : prompt.length();
      tokens[i] = s < 0 ? prompt.question() : followers(batch, s);
      int own = s < 0 ? prompt.length() : tokens[i].length;
      int length = room == null ? own : s < 0 ? room.longest() : room.response() - 1;
      offsets[i + 1] = Math.addExact(offsets[i], length);
    }
    Rows rows = rows(batch.prompts(), imageOf, begin, tokens, offsets);
    int[] keys = batch.offsets();
    int[] responseOffsets = batch.responseOffsets();
    int first = offsets[prompts];
    int[] keyRows = new int[Math.addExact(first, batch.rows())];
    int[] rowIndex = new int[batch.responseRows()];
    // A sequence whose prompt is shorter than others ends before its room: that is a piece without
    // queries, so that the last query sees the last key.
    boolean uneven = room != null && room.shortest() < room.longest();
    int perSequence = uneven ? 2 : 1;
    int[] offsetsQ = new int[prompts + perSequence * batch.sequences() + 1];
    int[] offsetsK = new int[offsetsQ.length];
    for (int p = 0; p < prompts; p++) {
      offsetsQ[p + 1] = offsets[p + 1];
      offsetsK[p + 1] = offsets[p + 1];
    }
    Arrays.setAll(keyRows, row -> row);
    for (int s = 0; s < batch.sequences(); s++) {
      int prompt = begin[prompts + s];
      int promptRow = offsets[batch.promptOf(s)];
      int ownRow = offsets[prompts + s];
      int length = offsets[prompts + s + 1] - ownRow;
      int[] row = new int[keys[s + 1] - keys[s]];
      Arrays.setAll(
          row, t -> t < prompt ? promptRow + t : t < prompt + length ? ownRow + t - prompt : -1);
      System.arraycopy(row, 0, keyRows, first + keys[s], row.length);
      int count = responseOffsets[s + 1] - responseOffsets[s];
      System.arraycopy(row, row.length - count, rowIndex, responseOffsets[s], count);
      int piece = prompts + perSequence * s;
      offsetsQ[piece + 1] = ownRow + length;
      offsetsK[piece + 1] = first + keys[s] + prompt + length;
      offsetsQ[piece + perSequence] = ownRow + length;
      offsetsK[piece + perSequence] = first + keys[s + 1];
    }
    return new Packed(
        config,
        Tables.of(
            scope,
            rows.token,
            rows.patch,
            rows.position,
            keys,
            rowIndex,
            responseOffsets,
            keyRows,
            offsetsQ,
            offsetsK),
        patches(scope, batch.prompts()),
        batch.longest(),
        first,
        true);
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
      Layer own = pass.layers.get(layer);
      Tensor q = GatherRows.gather(scope, columnsOf(own.qkv, 0, config.heads()), in.rowIndex());
      pass.attention.put(
          layer,
          new AttentionPolicy.Input(
              heads(q),
              keys(ofSequences(in, own.kv)),
              in.offsetsQ(),
              in.offsets(),
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
      // Nothing here waits for gradients of weights: they are branches, those of a layer beside the
      // layer below it.
      fork(probe, () -> addProduct(pass.norm.y(), dLogits, head, probe));
      Tensor dNorm = Gemm.multiply(scope, dLogits, head.value(), timesTransposed);
      Tensor dGathered = Tensor.empty(scope, DType.F32, pass.gathered.shape());
      normBackward(pass.gathered, finalNorm, pass.norm, dNorm, null, dGathered);
      Packed in = pass.in;
      Tensor above = Tensor.zeros(scope, DType.F32, in.token().shape(0), config.width());
      ScatterAddRows.add(context, dGathered, in.rowIndex(), above);
      Tensor below = Tensor.empty(scope, DType.F32, above.shape());
      for (int l = blocks.size() - 1; l >= 0; l--) {
        try (Scope inner = context.scope()) {
          layerBackward(inner, pass, l, above, below, attention, probe);
        }
        Tensor free = above;
        above = below;
        below = free;
      }
      Tensor dx = above;
      fork(
          probe,
          () -> {
            ScatterAddRows.add(context, dx, in.position(), position.gradient());
            ScatterAddRows.add(context, dx, in.token(), token.gradient());
          });
      if (in.patches != null) {
        Tensor dPatch = Tensor.zeros(scope, DType.F32, in.patches.shape(0), config.width());
        ScatterAddRows.add(context, dx, in.patch(), dPatch);
        addProduct(in.patches, dPatch, patch, probe);
      }
      context.join();
    }
  }

  /** A branch of a graph; what a probe does is not. */
  private void fork(Probe probe, Runnable work) {
    if (probe == null) {
      context.fork(work);
    } else {
      work.run();
    }
  }

  /**
   * @param dOut gradient of the layer's output; a branch may read it until the next join
   * @param dx out, that of its input; free after a join
   */
  private void layerBackward(
      Scope scope,
      Pass pass,
      int l,
      Tensor dOut,
      Tensor dx,
      List<AttentionGradient> attention,
      Probe probe) {
    Block block = blocks.get(l);
    Layer layer = pass.layers.get(l);
    Tensor dy = Gemm.multiply(scope, dOut, block.down.value(), timesTransposed);
    Tensor dGateUp = Tensor.empty(scope, DType.F32, layer.gateUp.shape());
    SwiGlu.backward(context, layer.gateUp, dy, dGateUp);
    Tensor dNorm2 = Gemm.multiply(scope, dGateUp, block.gateUp.value(), timesTransposed);
    Tensor dX2 = Tensor.empty(scope, DType.F32, dx.shape());
    normBackward(layer.x2, block.feedForwardNorm, layer.norm2, dNorm2, dOut, dX2);

    Tensor dO = Gemm.multiply(scope, dX2, block.output.value(), timesTransposed);
    Packed in = pass.in;
    boolean shared = in.shares;
    Tensor dQkv = Tensor.empty(scope, DType.F32, layer.qkv.shape());
    Tensor dKv = keysAndValues(dQkv);
    if (shared) {
      dKv = Tensor.empty(scope, DType.F32, layer.kv.shape());
      dQkv.zero();
    }
    Attention.backward(
        context,
        attentionInput(in, layer.qkv, layer.kv),
        heads(layer.o),
        layer.lse,
        heads(dO),
        queries(dQkv),
        keys(dKv),
        values(dKv));
    for (AttentionGradient gradient : attention) {
      if (gradient.layer() == l) {
        context.join(); // it may come from a branch
        Tensor dq = gradient.dq();
        Tensor dk = gradient.dk();
        ScatterAddRows.add(
            context,
            dq.reshape(dq.shape(0), (long) config.heads() * config.headDim()),
            in.rowIndex(),
            columnsOf(dQkv, 0, config.heads()));
        Axpby.apply(
            context,
            1,
            dk.reshape(dk.shape(0), (long) config.kvHeads() * config.headDim()),
            1,
            columnsOf(ofSequences(in, dKv), 0, config.kvHeads()));
      }
    }
    if (shared) {
      ScatterAddRows.add(context, dKv, in.keyRows(), keysAndValues(dQkv));
    }
    context.join(); // with the branch of the layer above
    fork(
        probe,
        () -> {
          addProduct(layer.y, dOut, block.down, probe);
          addProduct(layer.norm2.y(), dGateUp, block.gateUp, probe);
          addProduct(layer.o, dX2, block.output, probe);
          addProduct(layer.norm1.y(), dQkv, block.qkv, probe);
        });
    Tensor dNorm1 = Gemm.multiply(scope, dQkv, block.qkv.value(), timesTransposed);
    normBackward(layer.x, block.attentionNorm, layer.norm1, dNorm1, dX2, dx);
  }

  /** The gradient of the weight in y = x · weight. */
  private void addProduct(Tensor x, Tensor dy, Parameter weight, Probe probe) {
    if (probe == null) {
      Gemm.multiply(context, x, dy, weightGradient, weight.gradient());
    } else {
      probe.product(weight, x, dy);
    }
  }

  private void normBackward(
      Tensor x, Parameter weight, RmsNorm.Outputs norm, Tensor dy, Tensor residual, Tensor dx) {
    RmsNorm.backward(context, x, weight.value(), norm.rstd(), dy, residual, dx, weight.gradient());
  }

  // -------------------------------------------------------------------------------------- sampling

  /**
   * Prompts to be answered, and tables of where things are. Prompts have rows of the same number
   * each, {@code length}; caches of keys and values a region of {@code length + steps} rows for
   * each response.
   *
   * @param prompts their last rows are those that logits are wanted for
   * @param tables {@link #promptOf} and what follows
   * @param counter i64[steps], of the random numbers
   * @param tokens i32[steps, responses], receives what is drawn
   */
  private record Generation(Packed prompts, Tables tables, Tensor counter, Tensor tokens)
      implements Replays.Data<Generation> {
    @Override
    public Generation with(UnaryOperator<Tensor> input, UnaryOperator<Tensor> output) {
      return new Generation(
          prompts.with(input), tables.with(input), input.apply(counter), output.apply(tokens));
    }

    int steps() {
      return (int) tokens.shape(0);
    }

    int responses() {
      return (int) tokens.shape(1);
    }

    /** Of each response. */
    Tensor promptOf() {
      return tables.get(0);
    }

    /** [responses · length], the prompts' rows that the caches begin with. */
    Tensor cacheFrom() {
      return tables.get(1);
    }

    /** [responses · length], where they go. */
    Tensor cacheTo() {
      return tables.get(2);
    }

    /** [responses + 1]. */
    Tensor cacheOffsets() {
      return tables.get(3);
    }

    /** [responses + 1], offsets of a row each. */
    Tensor one() {
      return tables.get(4);
    }

    /** Of every token that is drawn in a step. */
    Tensor position(int step) {
      return tables.row(5, steps(), step);
    }

    /** The rows in the caches of those tokens. */
    Tensor at(int step) {
      return tables.row(6, steps(), step);
    }

    /** Keys that they see. */
    Tensor visible(int step) {
      return tables.row(7, steps(), step);
    }

    Tensor drawn(int step) {
      return tokens.rows(step, step + 1).reshape(responses());
    }
  }

  /** Work on prompts of the same shapes. */
  private record Generating(float temperature, long seed, Object layout) {}

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
    try (Scope inner = context.scope()) {
      Generation generation = generation(inner, prompts, group, sampling);
      replays.run(
          new Generating(sampling.temperature(), sampling.seed(), generation.prompts.layout()),
          generation,
          own -> generate(own, sampling));
      return responses(generation.tokens.toInts(), count, sampling.stopToken());
    }
  }

  private Generation generation(Scope scope, List<Prompt> prompts, int group, Sampling sampling) {
    int steps = sampling.maxTokens();
    int count = prompts.size() * group;
    int length = prompts.stream().mapToInt(Prompt::length).max().orElse(0);
    int room = Math.addExact(length, steps);
    requirePositions(room - 1L);
    int[][] questions = new int[prompts.size()][];
    int[] own = new int[prompts.size()];
    int[] offsets = new int[prompts.size() + 1];
    int[] lastRows = new int[prompts.size()];
    for (int p = 0; p < questions.length; p++) {
      questions[p] = prompts.get(p).question();
      own[p] = p;
      offsets[p + 1] = Math.addExact(offsets[p], length);
      lastRows[p] = offsets[p] + prompts.get(p).length() - 1;
    }
    Rows rows = rows(prompts, own, new int[own.length], questions, offsets);
    int[] promptOf = new int[count];
    Arrays.setAll(promptOf, s -> s / group);
    int[] from = new int[Math.multiplyExact(count, length)];
    Arrays.setAll(from, i -> offsets[promptOf[i / length]] + i % length);
    int[] to = new int[from.length];
    Arrays.setAll(to, i -> Math.addExact(Math.multiplyExact(i / length, room), i % length));
    int[] cacheOffsets = new int[count + 1];
    Arrays.setAll(cacheOffsets, s -> s * room);
    int[] one = new int[count + 1];
    Arrays.setAll(one, s -> s);
    int[][] tables = new int[3][Math.multiplyExact(steps, count)];
    for (int i = 0; i < tables[0].length; i++) {
      int s = i % count;
      int position = prompts.get(promptOf[s]).length() + i / count;
      tables[0][i] = position;
      tables[1][i] = cacheOffsets[s] + position;
      tables[2][i] = position + 1;
    }
    long[] counter = new long[steps];
    Arrays.setAll(counter, step -> sampling.offset() * steps + step);
    return new Generation(
        new Packed(
            config,
            Tables.of(scope, rows.token, rows.patch, rows.position, offsets, lastRows),
            patches(scope, prompts),
            length,
            0,
            false),
        Tables.of(scope, promptOf, from, to, cacheOffsets, one, tables[0], tables[1], tables[2]),
        Tensor.of(scope, counter, new long[0]),
        Tensor.empty(scope, DType.I32, steps, count));
  }

  /** Draws all tokens; on the CPU, where a look costs nothing, until every response has ended. */
  private void generate(Generation in, Sampling sampling) {
    try (Scope inner = context.scope()) {
      long room = in.prompts.longest + in.steps();
      // Keys and values of growing sequences, for every layer.
      long width = 2L * config.kvHeads() * config.headDim();
      List<Tensor> cache = new ArrayList<>();
      for (int l = 0; l < config.layers(); l++) {
        cache.add(Tensor.empty(inner, DType.F32, in.responses() * room, width));
      }
      Tensor logits;
      try (Scope prefill = context.scope()) {
        Pass pass = new Pass(prefill, in.prompts);
        for (int l = 0; l < config.layers(); l++) {
          GatherRows.gather(
              context, pass.layers.get(l).kv, in.cacheFrom(), in.cacheTo(), false, cache.get(l));
        }
        logits = GatherRows.gather(inner, pass.logits, in.promptOf());
      }
      boolean looks = context.device().kind() == Device.Kind.CPU;
      boolean[] ended = new boolean[in.responses()];
      for (int step = 0; step < in.steps(); step++) {
        if (step > 0) {
          decode(in, cache, room, step - 1, logits);
        }
        Tensor next = in.drawn(step);
        SampleTokens.sample(
            context,
            logits,
            null,
            new SampleTokens.Options(
                sampling.temperature(), sampling.seed(), 0, in.counter.rows(step, step + 1)),
            next);
        if (looks && allEnded(next.toInts(), sampling.stopToken(), ended)) {
          return;
        }
      }
    }
  }

  private static boolean allEnded(int[] tokens, int stopToken, boolean[] ended) {
    boolean all = true;
    for (int s = 0; s < ended.length; s++) {
      ended[s] |= tokens[s] == stopToken;
      all &= ended[s];
    }
    return all;
  }

  /** Adds token {@code step} to every sequence: the logits of the next go to {@code logits}. */
  private void decode(Generation in, List<Tensor> cache, long room, int step, Tensor logits) {
    try (Scope inner = context.scope()) {
      Tensor x = GatherRows.gather(inner, token.value(), in.drawn(step));
      GatherRows.gather(context, position.value(), in.position(step), null, true, x);
      Tensor at = in.at(step);
      Tensor visible = in.visible(step);
      Tensor residual = null;
      for (int l = 0; l < config.layers(); l++) {
        Tensor kv = cache.get(l);
        Layer layer =
            layer(
                inner,
                blocks.get(l),
                x,
                residual,
                (qkv, o, lse) -> {
                  GatherRows.gather(context, keysAndValues(qkv), null, at, false, kv);
                  Attention.forward(
                      context,
                      new Attention.Input(
                          queries(qkv),
                          keys(kv),
                          values(kv),
                          in.one(),
                          in.cacheOffsets(),
                          visible,
                          room,
                          scale(),
                          precision),
                      o,
                      lse);
                  return kv;
                });
        x = layer.out;
        residual = layer.x2;
      }
      RmsNorm.Outputs norm = RmsNorm.forward(inner, x, residual, finalNorm.value(), EPS);
      Gemm.multiply(context, norm.y(), head.value(), plain, logits);
    }
  }

  /**
   * @param drawn [steps, count]
   */
  private static int[][] responses(int[] drawn, int count, int stopToken) {
    int steps = drawn.length / count;
    int[][] responses = new int[count][];
    for (int s = 0; s < count; s++) {
      int length = 0;
      while (length < steps) {
        length++;
        if (drawn[(length - 1) * count + s] == stopToken) {
          break;
        }
      }
      responses[s] = new int[length];
      for (int i = 0; i < length; i++) {
        responses[s][i] = drawn[i * count + s];
      }
    }
    return responses;
  }
}
