// Every text of the map, in every language it has. Reasons of runs and patterns come from the server, in English.

const en = {
  map_of_heads: "Map of heads",
  show_or_hide: "Show or hide the map of layers and heads",
  map_role: "map of layers and heads",
  map_name:
    "Layers down, heads across. Arrow keys move, Home and End go to the first and last head, Page Up and Page Down " +
    "go ten layers, Enter shows what the head attends.",
  map_name_keep:
    "Layers down, heads across. Arrow keys move, Home and End go to the first and last head, Page Up and Page Down " +
    "go ten layers, Enter shows what the head attends, L keeps its layer dense.",
  hint: "Point at a head, or move with the arrow keys. A click on a head shows what it attends.",
  hint_keep:
    "Point at a head, or move with the arrow keys. A layer's number keeps it dense, a click on a head shows what it attends.",
  no_plan: "There is no plan to show.",
  no_patterns: "This plan has no patterns yet. The first run finds them and keeps them as a new plan.",
  all_dense: "Every head of this plan is dense.",
  not_searched: "Run the workflow to see the plan that is found.",
  not_connected: "No plan is connected. After a run, the map shows the plan that ran.",
  loading: "Loading the plan.",
  plan_as_text: "The plan in plan_text is shown after a run.",
  not_answered: "The plan could not be loaded: {why}. Choose it again.",
  plan_tab: "Plan",
  plan_tab_about: "The plan, and what the next run keeps dense",
  run_tab: "Last run",
  run_tab_about: "What ran",
  noise: "noise",
  steps: "steps",
  all_noise: "all",
  band_about: "Noise levels {levels}, mean density {density}",
  one_head: "{count} head",
  heads: "{count} heads",
  keep_kind: "Keep these heads dense",
  follow_plan: "Follow the plan again",
  keep_layer: "Keep layer {layer} dense",
  next_run: "Takes effect with the next run",
  kept_list: "kept dense: {locks}",
  kept: "kept dense",
  reset: "Reset",
  reset_about: "Nothing is kept dense any more",
  density: "density {density}",
  summary: "{times}x expected",
  mean_density: "mean density {density}",
  no_attention: "no attention is computed",
  expected:
    "expected at {size} tokens: attention {attention} times as fast ({times}), a whole step {step} times (estimate)",
  cell: "layer {layer}, head {head}: {pattern}",
  error: "error {percent} % of its output, as profiled",
  nothing_sparse: "nothing ran sparse",
  calls_sparse: "{percent} % of calls sparse",
  density_ran: "mean density {density}",
  as_timed: "attention {times}x as fast as dense, measured",
  not_timed: "speed not measured",
  layer_ran: "its layer ran {sparse} calls sparse",
  dense_because: "{calls} dense: {reason}",
  noise_level: "noise {level}: ",
  step_sparse: "{calls} sparse",
  picture_coming: "Drawing what the head attends.",
  picture_alt: "What {cell} attends, and its pattern",
  picture_unmeasured:
    "Only the pattern is shown: what this head attends was not measured. Plans found in a run have it, and plans of " +
    "Search Sparse Plan; saved plans have it if their profile was saved too.",
  picture_nothing:
    "There is nothing to draw: what this head attends was not measured, and its pattern is all, nothing, or chosen in each call.",
  picture_failed: "There is no picture of this head: {why}",
};

const zh = {
  map_of_heads: "头部图",
  show_or_hide: "显示或隐藏层与头的图",
  map_role: "层与头的图",
  map_name:
    "层从上到下，头从左到右。方向键移动，Home 和 End 到第一个和最后一个头，Page Up 和 Page Down 移动十层，" +
    "Enter 显示该头关注什么。",
  map_name_keep:
    "层从上到下，头从左到右。方向键移动，Home 和 End 到第一个和最后一个头，Page Up 和 Page Down 移动十层，" +
    "Enter 显示该头关注什么，L 使该层保持稠密。",
  hint: "指向一个头，或用方向键移动。点击一个头显示它关注什么。",
  hint_keep: "指向一个头，或用方向键移动。点击层号使该层保持稠密，点击一个头显示它关注什么。",
  no_plan: "没有可显示的方案。",
  no_patterns: "此方案还没有模式。第一次运行会找到它们，并保存为新方案。",
  all_dense: "此方案的所有头都是稠密的。",
  not_searched: "运行工作流后显示找到的方案。",
  not_connected: "未连接方案。运行结束后，此图显示实际运行的方案。",
  loading: "正在加载方案。",
  plan_as_text: "plan_text 中的方案在运行后显示。",
  not_answered: "无法获取方案：{why}。请重新选择。",
  plan_tab: "方案",
  plan_tab_about: "方案，以及下次运行保持稠密的部分",
  run_tab: "上次运行",
  run_tab_about: "实际运行的内容",
  noise: "噪声",
  steps: "步骤",
  all_noise: "全部",
  band_about: "噪声级别 {levels}，平均密度 {density}",
  one_head: "{count} 个头",
  heads: "{count} 个头",
  keep_kind: "使这些头保持稠密",
  follow_plan: "重新遵循方案",
  keep_layer: "第 {layer} 层保持稠密",
  next_run: "下次运行时生效",
  kept_list: "保持稠密：{locks}",
  kept: "保持稠密",
  reset: "重置",
  reset_about: "不再使任何部分保持稠密",
  density: "密度 {density}",
  summary: "预计 {times} 倍速",
  mean_density: "平均密度 {density}",
  no_attention: "不计算任何注意力",
  expected: "预计（{size} 个 token）：注意力 {attention} 倍速（{times}），整个步骤 {step} 倍速（估计值）",
  cell: "第 {layer} 层，第 {head} 个头：{pattern}",
  error: "误差为其输出的 {percent} %（测量值）",
  nothing_sparse: "没有任何部分稀疏运行",
  calls_sparse: "{percent} % 的调用稀疏运行",
  density_ran: "平均密度 {density}",
  as_timed: "注意力是稠密的 {times} 倍速（实测）",
  not_timed: "未测量速度",
  layer_ran: "该层有 {sparse} 次调用稀疏运行",
  dense_because: "{calls} 次稠密：{reason}",
  noise_level: "噪声 {level}：",
  step_sparse: "{calls} 次稀疏",
  picture_coming: "正在绘制该头关注的内容。",
  picture_alt: "{cell} 关注的内容及其模式",
  picture_unmeasured:
    "没有测量该头关注什么，只显示它的模式。生成时找到的方案，以及由“测量注意力头”和“搜索方案”得到的方案有这项测量；" +
    "已保存的方案需要同时保存了测量结果。",
  picture_nothing: "没有可绘制的内容：没有测量该头关注什么，它的模式是全部、无，或在每次调用时选择。",
  picture_failed: "没有该头的图片：{why}",
};

const LANGUAGES = { en, zh };
let chosen = en;

// Texts are in this language from now on, in English where there is none of it.
export function speak(language) {
  chosen = Object.hasOwn(LANGUAGES, language ?? "") ? LANGUAGES[language] : en;
}

export function say(key, values = {}) {
  return (chosen[key] ?? en[key]).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
